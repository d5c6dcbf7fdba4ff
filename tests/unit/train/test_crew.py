"""Processes that form a world for a while: one answer, and one end for all."""

import os
import time
from functools import partial
from typing import Any

import pytest

from orchestrator.core.errors import BadInput, TrainingFailed
from orchestrator.train.evaluation.crew import run_crew


def greet(ending: str, rank: int, size: int, store: Any) -> str:
    """Rank 0 of two needs what rank 1 does not say, and would wait for it for half an hour."""
    if rank == 1:
        if ending == "refuse":
            raise BadInput("no such thing", where="here", remedy="take another")
        os._exit(1)
    return str(store.get("name").decode()) if size > 1 else f"alone in process {os.getpid()}"


def test_one_member_is_this_process() -> None:
    assert run_crew(1, partial(greet, "")) == f"alone in process {os.getpid()}"


@pytest.mark.parametrize(
    ("ending", "problem", "said"), [("refuse", BadInput, "take another"), ("die", TrainingFailed, "rank 1")]
)
def test_one_that_fails_ends_all_with_its_reason(ending: str, problem: type[Exception], said: str) -> None:
    began = time.monotonic()
    with pytest.raises(problem, match=said):
        run_crew(2, partial(greet, ending))
    assert time.monotonic() - began < 120
