"""What the controller sees, written for people and read back."""

from pathlib import Path

from orchestrator.tracking.now import NodeOffer, Now, RankNow, Waiting, read_now, write_now

FREE = NodeOffer(host="h1", node_id="a", free={"CPU": 2.0}, total={"CPU": 2.0}, why_not="")
TAKEN = NodeOffer(host="h2", node_id="b", free={"CPU": 0.0}, total={"CPU": 2.0}, why_not="0 of 2 CPU free")
WAITING = Waiting(since=5.0, asked={"CPU": 2.0, "GPU": 8.0}, needed=2, wanted=4, ready=1, nodes=[FREE, TAKEN])
RANK = RankNow(rank=0, host="h1", local_rank=0, pid=7, state="training", step=3, phase="step", busy_s=0.5)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    assert read_now(tmp_path) is None
    for now in (
        Now(t=9.0, generation=2, phase="waiting", waiting=WAITING),
        Now(t=9.5, generation=2, phase="running", ranks=[RANK]),
    ):
        write_now(tmp_path, now)
        assert read_now(tmp_path) == now


def test_waiting_is_described_by_what_is_asked_and_why_each_node_does_not_do() -> None:
    assert WAITING.describe() == "each node must offer 2 CPU, 8 GPU; h1: fits; h2: 0 of 2 CPU free"
    empty = Waiting(since=5.0, asked={"CPU": 2.0}, needed=1, wanted=1, ready=0, nodes=[])
    assert empty.describe() == "each node must offer 2 CPU; no node is alive"
