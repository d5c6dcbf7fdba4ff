"""The scribe as a Ray actor: detached, restarted without limit, on the controller's lease. See tracking/scribe.py."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.load import load_config
from orchestrator.control.logs import keep_output
from orchestrator.core.clock import SystemClock
from orchestrator.core.news import News
from orchestrator.core.words import ExitCode, RunState
from orchestrator.tracking.mirror import open_wandb
from orchestrator.tracking.rundir import RunDir
from orchestrator.tracking.scribe import Scribe


class ScribeActor:
    """One a run; outlives ranks, so that one W&B run covers all attempts."""

    def __init__(self, path: Path, about: dict[str, Any], lease_s: float) -> None:
        keep_output(RunDir(path).logs, "scribe")
        self._lease_s = lease_s
        self._renewed = time.monotonic()
        self._scribe = Scribe(path, load_config(path / "config.yaml").config, about, SystemClock(), open_wandb)
        threading.Thread(target=self._end_without_lease, daemon=True).start()

    def write(self, news: Sequence[News]) -> None:
        self._scribe.write(news)

    def annotate(self, text: str) -> None:
        self._scribe.annotate(text)

    def renew(self) -> int:
        self._renewed = time.monotonic()
        return os.getpid()

    def finish(self, state: RunState, exit_code: ExitCode, reason: str = "") -> None:
        self._scribe.finish(state, exit_code, reason)

    def _end_without_lease(self) -> None:
        while time.monotonic() - self._renewed < self._lease_s:
            time.sleep(0.5)
        os._exit(0)
