"""A cleaning step that holds preparing up, as a user's slow function would, until a file is there."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def hold(text: str, meta: Mapping[str, Any], free: list[int], gate: str) -> bool:
    """Everything stays, but samples of shards that are not `free` wait."""
    while meta["shard"] not in free and not Path(gate).exists():
        time.sleep(0.05)
    return bool(text)
