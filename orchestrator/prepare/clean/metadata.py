"""Rules about the json member of a sample: licences, sources, scores."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from orchestrator.config.problems import shown
from orchestrator.prepare.clean.sample import Unfit

Value = str | int | float | bool | None
_NOTHING = object()


def field(
    meta: Mapping[str, Any],
    key: str,
    allow: Sequence[Value] | None = None,
    deny: Sequence[Value] = (),
    missing: Literal["keep", "drop"] = "drop",
) -> Unfit | None:
    """What stands at a.b.c must be one of `allow`, and none of `deny`; of a list, every element."""
    found = _look_up(meta, key)
    if found is _NOTHING:
        return Unfit(f"it has no {key}") if missing == "drop" else None
    values = found if isinstance(found, list) else [found]
    for value in values:
        if value in deny:
            return Unfit(f"{key} is {shown(value)}, which is denied")
        if allow is not None and value not in allow:
            return Unfit(f"{key} is {shown(value)}, which is not allowed")
    return None


def _look_up(meta: Mapping[str, Any], key: str) -> Any:
    found: Any = meta
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _NOTHING
        found = found[part]
    return found
