import json
import math

import pytest

from orchestrator.core.errors import BadInput
from orchestrator.tracking.now import NodeOffer, Waiting
from orchestrator.tracking.status import (
    EventLine,
    LastCheckpoint,
    RankStatus,
    RunStatus,
    SeenState,
    Validation,
    from_json,
    to_json,
)

OFFER = NodeOffer(host="a", node_id="1", free={"CPU": 1.0}, total={"CPU": 4.0}, why_not="1 of 4 CPU free")
FULL = RunStatus(
    name="demo",
    path="/runs/demo",
    state=SeenState.RUNNING,
    read_at=1_010.5,
    step=7,
    steps=20,
    loss=2.5,
    losses=[3.0, 2.5],
    validation=Validation(step=5, loss=2.75, perplexity=15.6),
    checkpoint=LastCheckpoint(step=5, t=1_005.0, folder="step-00000005-g0001"),
    ranks=[
        RankStatus(rank=None, host="a", local_rank=0, pid=4, state="warming", step=0, phase="", busy_s=0.0, slow=False)
    ],
    waiting=Waiting(since=1_000.0, asked={"CPU": 2.0}, needed=1, wanted=2, ready=0, nodes=[OFFER]),
    events=[EventLine(t=1_000.0, text="started")],
)


def test_a_status_comes_back_whole_from_what_is_printed() -> None:
    assert from_json(json.loads(json.dumps(to_json(FULL)))) == FULL


def test_what_is_not_known_is_null() -> None:
    fields = to_json(RunStatus(name="demo", path="", state=SeenState.PREPARING, read_at=1.0))
    assert (fields["format"], fields["state"], fields["loss"], fields["ranks"]) == (1, "preparing", None, [])


def test_numbers_that_are_none_survive_strict_json() -> None:
    status = RunStatus(name="demo", path="", state=SeenState.FAILED, read_at=1.0, loss=math.nan, losses=[1.0, math.inf])
    text = json.dumps(to_json(status), allow_nan=False)
    back = from_json(json.loads(text))
    assert back.loss is not None
    assert math.isnan(back.loss)
    assert back.losses == [1.0, math.inf]


def test_fields_of_a_later_longhaul_are_passed_over() -> None:
    assert from_json({**to_json(FULL), "mood": "good"}) == FULL


@pytest.mark.parametrize("fields", [{"format": 2}, {}, [], {"format": 1, "name": "demo"}])
def test_what_is_no_status_is_refused(fields: object) -> None:
    with pytest.raises(BadInput, match="no status"):
        from_json(fields)


def test_a_run_is_over_when_nobody_works_on_it() -> None:
    assert [state.value for state in SeenState if not state.over] == ["preparing", "pending", "running", "stopping"]
