"""The gang itself: whatever its members do, it returns in time and leaves no process."""

import multiprocessing
import threading
from typing import Any

import pytest

from tests.fakes.gang import GangFailed, run_gang


def fail_on_the_last(rank: int, size: int, store: Any) -> None:
    if rank == size - 1:
        raise ValueError("on purpose")
    threading.Event().wait()


def wait_forever(rank: int, size: int, store: Any) -> None:
    threading.Event().wait()


def test_a_gang_ends_when_one_member_fails() -> None:
    with pytest.raises(GangFailed, match="on purpose"):
        run_gang(2, fail_on_the_last, deadline_s=60.0)
    assert not multiprocessing.active_children()


def test_a_gang_ends_at_its_deadline() -> None:
    with pytest.raises(GangFailed, match="not done in time"):
        run_gang(1, wait_forever, deadline_s=0.5)
    assert not multiprocessing.active_children()
