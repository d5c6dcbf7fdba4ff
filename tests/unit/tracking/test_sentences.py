from typing import Any

import pytest

from orchestrator.tracking.sentences import describe_event


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"event": "claimed", "host": "a", "generation": 2}, "a controller on a takes charge of generation 2"),
        ({"event": "warming", "nodes": ["a"]}, "ranks warm up on 1 node"),
        ({"event": "started", "world_size": 2_048, "checkpoint": None}, "started on 2,048 ranks from step 0"),
        ({"event": "started", "world_size": 1, "checkpoint": "step-8"}, "started on 1 rank from step-8"),
        ({"event": "checkpoint", "step": 1_200, "seconds": 1.234}, "checkpoint of step 1,200, written in 1.23 s"),
        (
            {"event": "checkpoint", "step": 1_200, "seconds": 1.234, "pause_s": 0.042},
            "checkpoint of step 1,200, written in 1.23 s, of which training waited 0.042",
        ),
        ({"event": "fault", "step": 7, "reason": "rank 1 died\nTraceback"}, "fault at step 7: rank 1 died"),
        (
            {"event": "ranks_killed", "host": "a", "pids": [7, 8], "reason": "did not leave"},
            "ranks on a are ended (processes 7, 8): did not leave",
        ),
        (
            {"event": "preparing", "segments": 1, "expected": 8},
            "the other segments are being prepared; 1 of 8 are there",
        ),
        ({"event": "prepared", "segments": 8}, "all 8 segments are prepared"),
        ({"event": "stopped", "reason": "", "step": 7}, "stopped at step 7"),
        ({"event": "stopped", "reason": "stopped at once"}, "stopped at once"),
        ({"event": "checkpoint_failed", "step": 0, "reason": "disk full"}, "checkpoint failed at step 0: disk full"),
        ({"event": "something_new"}, "something new"),
    ],
)
def test_each_event_is_one_sentence(event: dict[str, Any], sentence: str) -> None:
    assert describe_event(event) == sentence


def test_a_long_reason_is_cut() -> None:
    assert len(describe_event({"event": "failed", "reason": "x" * 5_000})) < 250
