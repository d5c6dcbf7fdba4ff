"""Of a run's controllers in one Ray only one has the name: an earlier one that still stands makes way for the next.

Before controller.py puts a new one there. Nothing is lost with the one that goes: the next one claims a generation of
its own and adopts what is still running."""

import logging
import os
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError

from orchestrator.control.group import remove_groups
from orchestrator.control.jobs import RunHandle
from orchestrator.core.errors import LonghaulError
from orchestrator.tracking.rundir import RunDir

log = logging.getLogger(__name__)
ENDS_WITHIN_S = 30.0  # of a run's last word: until then its controller gives back what the cluster keeps for the run
GONE_WITHIN_S = 10.0  # of being ended by Ray
_LOOK_EVERY_S = 0.05


def make_way(run: RunHandle) -> bool:
    """Whether an earlier controller was there. One whose run has ended is about to end, too, and is waited for. Others
    have lost their lease, as they are frozen or about to be started again: they are ended."""
    old = find_controller(run)
    if old is None:
        return False
    view = RunDir(run.path).view()
    if not (view.state.ended and _is_gone(run, ENDS_WITHIN_S)):
        log.warning("an earlier controller of %s is still there, and is ended", run.path)
        ray.kill(old)
    if not _is_gone(run, GONE_WITHIN_S):
        raise LonghaulError(
            "an earlier controller of this run is still there, and Ray does not end it",
            where=str(run.path),
            remedy=f"look at actor {run.actor_name('controller')} of this Ray, or start that anew; then resume the run",
        )
    if not view.generation:  # it was of a run whose directory has been removed, and so is the rest
        give_back_rest(run)
    return True


def find_controller(run: RunHandle) -> Any | None:
    try:
        return ray.get_actor(run.actor_name("controller"), namespace=run.namespace)
    except ValueError:  # no such actor
        return None


def is_replaced(run: RunHandle) -> bool:
    """Whether in this Ray another process has the place of this one, or will have it."""
    named = find_controller(run)
    try:
        return named is None or bool(ray.get(named.pid.remote()) != os.getpid())
    except RayActorError:  # ended a moment ago
        return True


def _is_gone(run: RunHandle, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while find_controller(run) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def give_back_rest(run: RunHandle) -> None:
    """What others have left of a run, beside node actors, which lie in its groups: those and the scribe."""
    remove_groups(run)
    with suppress(ValueError):  # no such actor
        ray.kill(ray.get_actor(run.actor_name("scribe"), namespace=run.namespace))
