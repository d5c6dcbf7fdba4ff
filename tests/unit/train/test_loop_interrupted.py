"""A rank that waits for its data, its vault or in a validation, in a world that is to be left. A gang of one."""

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.behind import SLOTS, Behind
from orchestrator.checkpoint.slot import Slot
from orchestrator.config.running import KeepSection
from orchestrator.control.abort import WayOut
from orchestrator.core.errors import WorldLeft
from orchestrator.train.engine import warm
from tests.fakes.gang import run_gang
from tests.fakes.rank_processes import job_of
from tests.fakes.small_runs import ScriptedHelm, SmallManifest, small_config, train_small

PHASES = ("data", "evaluate", "checkpoint")
SOON_S = 1.0
STUCK_S = 30.0  # what is waited for is not there any sooner


class AbortingHelm(ScriptedHelm):
    """From a phase on nothing comes any more; while the rank waits for it there, its world is to be left."""

    def __init__(self, phase: str, came: threading.Event, way_out: WayOut) -> None:
        super().__init__()
        self.left_at = float("inf")
        self._phase, self._came, self._way_out = phase, came, way_out

    def show(self, step: int, phase: str) -> None:
        super().show(step, phase)
        if phase == self._phase and self._came.is_set():
            self._came.clear()
            threading.Timer(0.3, self._leave).start()

    def _leave(self) -> None:
        self.left_at = time.monotonic()
        self._way_out.take(1)


class SlowManifest(SmallManifest):
    came: threading.Event

    def tokens(self, ordinal: int) -> Any:
        self.came.wait(STUCK_S)
        return super().tokens(ordinal)


def run_all(rank: int, size: int, store: Any, folder: Path) -> dict[str, float]:
    warm("cpu", threads=1)
    return {phase: leave_while(phase, partial(train_small, rank, size, store), folder) for phase in PHASES}


def leave_while(phase: str, train: Any, folder: Path) -> float:
    """Seconds until it was out."""
    came, way_out, manifest = threading.Event(), WayOut(), SlowManifest.make()
    came.set()
    manifest.came = came
    way_out.enter(job_of("step", 1, 0, 1))
    helm = AbortingHelm(phase, came, way_out)
    slots = [Slot.create("test") for _ in range(SLOTS)]

    def mirror(slot: Slot) -> float:
        came.wait(STUCK_S)
        return 0.0

    vault = Behind(slots, folder / phase, keep=KeepSection(), best_by="loss", mirror=mirror)
    config = small_config(evaluate={"every_steps": 2}, checkpoint={"snapshot_every": 1000, "every_steps": 3})
    try:
        train(config, folder / phase, helm=helm, manifest=manifest, vault=vault, interruptible=way_out.interruptible)
    except WorldLeft:
        return time.monotonic() - helm.left_at
    finally:
        came.set()
        way_out.leave()
    return float("inf")


def test_whatever_a_rank_waits_for_it_leaves_its_world_at_once(tmp_path: Path) -> None:
    [took_s] = run_gang(1, run_all, tmp_path)
    assert {phase: seconds < SOON_S for phase, seconds in took_s.items()} == dict.fromkeys(PHASES, True), took_s
