"""What is read from run directories, written as controller and scribe write them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.storage.publish import publish_json
from orchestrator.tracking.look import read_status, read_summary
from orchestrator.tracking.now import Waiting
from orchestrator.tracking.status import SeenState
from tests.fakes.clock import FakeClock
from tests.fakes.run_dirs import WrittenRun, offer, ranks_now


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WrittenRun]:
    made = WrittenRun(tmp_path / "demo", FakeClock())
    yield made
    made.close()


def started(run: WrittenRun, steps: int = 0) -> WrittenRun:
    """In training on 2 nodes with 4 ranks each."""
    run.claim()
    run.start(2, 4)
    run.train(range(steps))
    return run


def test_before_a_controller_has_taken_charge_a_run_is_being_prepared(run: WrittenRun) -> None:
    status = read_status(run.run_dir, run.clock)
    assert (status.state, status.step, status.steps, status.loss) == (SeenState.PREPARING, 0, 2_000, None)
    assert status.updated_at == 1_000.0  # when its config was written


def test_a_run_that_no_controller_ever_took_charge_of_is_lost(run: WrittenRun) -> None:
    begun = run.clock.now()
    os.utime(run.run_dir.path, (begun, begun))
    run.clock.sleep(299.0)
    assert read_summary(run.run_dir, run.clock).state == "preparing"
    run.clock.sleep(2.0)
    status = read_summary(run.run_dir, run.clock)
    assert (status.state, status.reason) == ("lost", "no controller has taken charge of it")


def test_a_run_in_training_is_told_by_its_last_steps(run: WrittenRun) -> None:
    started(run, steps=120)
    run.train(range(120, 130), step_s=2.0, loss=[0.0] * 120 + [1.5] * 10)  # the last 50 steps: 40 of 0.5 s, 10 of 2 s
    status = read_status(run.run_dir, run.clock)
    assert (status.state, status.step, status.loss, status.world_size, status.nodes) == ("running", 130, 1.5, 8, 2)
    assert status.step_s == 0.5
    assert status.tokens_per_s == pytest.approx(50 * 4_096 / 40)
    assert status.samples_per_s == pytest.approx(50 * 8 / 40)
    assert status.data_wait == pytest.approx(0.01)
    assert status.eta_s == pytest.approx((2_000 - 130) * 0.5)
    assert status.goodput == pytest.approx(0.99)
    assert status.step_at == status.updated_at == run.clock.now()
    assert len(status.losses) == 60


def test_a_summary_says_the_same_as_the_status_in_what_it_has(run: WrittenRun) -> None:
    started(run, steps=3)
    summary, status = read_summary(run.run_dir, run.clock), read_status(run.run_dir, run.clock)
    for name in ("name", "path", "state", "step", "steps", "loss", "world_size", "started_at", "updated_at"):
        assert getattr(summary, name) == getattr(status, name)
    assert summary.losses == []


def test_a_run_whose_controller_is_gone_is_lost_and_its_time_stops(run: WrittenRun) -> None:
    started(run, steps=10)
    run.show(ranks_now(2, 4, 10))
    run.let_go()
    run.clock.sleep(86_400.0)
    status = read_status(run.run_dir, run.clock)
    assert (status.state, status.exit_code, status.ranks, status.eta_s) == (SeenState.LOST, None, [], None)
    assert "its controller on " in status.reason
    assert status.goodput == pytest.approx(0.99)


def test_an_ended_run_has_its_reason_its_code_and_the_step_it_ended_at(run: WrittenRun) -> None:
    started(run, steps=10)
    run.journal.append("stopped", exit_code=130, reason="stopped at once", step=9)
    status = read_status(run.run_dir, run.clock)
    assert (status.state, status.exit_code, status.reason, status.step) == ("stopped", 130, "stopped at once", 9)


def test_a_restarted_run_stands_where_its_checkpoint_does_until_it_steps(run: WrittenRun) -> None:
    started(run, steps=30)
    folder = run.save(20)
    run.restart("rank process 7 died")
    waiting = read_status(run.run_dir, run.clock)
    assert (waiting.state, waiting.step, waiting.world_size, waiting.step_s) == ("pending", 30, None, None)
    assert (waiting.restarts, waiting.generation, waiting.reason) == (1, 2, "")
    run.start(1, 4, checkpoint=folder)
    status = read_status(run.run_dir, run.clock)
    assert (status.state, status.step, status.world_size, len(status.losses)) == ("running", 20, 4, 20)
    run.train(range(20, 23), step_s=4.0, loss=[7.0] * 23)
    status = read_status(run.run_dir, run.clock)
    assert (status.step, status.loss, len(status.losses), status.step_s) == (23, 7.0, 23, 4.0)
    assert status.losses[19] < 7.0 == status.losses[20]


def test_a_restart_without_a_checkpoint_begins_again(run: WrittenRun) -> None:
    started(run, steps=30)
    run.restart("rank process 7 died")
    run.start(2, 4)
    assert read_status(run.run_dir, run.clock).step == 0


def test_steps_that_are_done_again_count_once_for_goodput(run: WrittenRun) -> None:
    started(run, steps=30)
    folder = run.save(20)
    run.restart("rank process 7 died")
    run.start(2, 4, checkpoint=folder)
    run.train(range(20, 30))
    assert read_status(run.run_dir, run.clock).goodput == pytest.approx(0.99 * 30 / 40)


def test_rows_of_earlier_versions_lack_the_time(run: WrittenRun) -> None:
    started(run, steps=1)
    run.clock.sleep(5.0)
    row = run.row(1, 3.0, 0.5)
    del row["t"]
    run.write_rows(row)
    status = read_status(run.run_dir, run.clock)
    assert (status.step, status.loss, status.step_at, status.updated_at) == (2, 3.0, None, 1_000.0)


def test_a_void_step_has_no_loss(run: WrittenRun) -> None:
    started(run)
    run.train(range(2), loss=[5.0, 4.0])
    run.write_rows({**run.row(2, 0.0, 0.5), "tokens": 0, "samples": 0, "applied": False})
    status = read_status(run.run_dir, run.clock)
    assert (status.step, status.loss, status.losses) == (3, 4.0, [5.0, 4.0])


def test_the_last_validation_and_checkpoint_are_told(run: WrittenRun) -> None:
    started(run, steps=100)
    run.evaluate(100, 2.5, 12.2)
    run.save(90)
    run.clock.sleep(1.0)
    run.save(100)
    status = read_status(run.run_dir, run.clock)
    assert status.validation is not None
    assert (status.validation.step, status.validation.loss, status.validation.perplexity) == (100, 2.5, 12.2)
    assert status.checkpoint is not None
    assert (status.checkpoint.step, status.checkpoint.t) == (100, run.clock.now())


def test_many_checkpoints_do_not_push_out_what_is_rare(run: WrittenRun) -> None:
    started(run, steps=1)
    for step in range(1, 20):
        run.save(step)
    run.restart("rank process 7 died")
    texts = [event.text for event in read_status(run.run_dir, run.clock).events]
    assert [text.split()[0] for text in texts] == ["a", "ranks", "started", "checkpoint", "fault:", "a"]
    assert "step 19," in texts[3]


def test_ranks_are_those_of_this_generation(run: WrittenRun) -> None:
    started(run, steps=1)
    run.show(ranks_now(2, 4, 1, slow={3: 0.9}))
    run.clock.sleep(3.0)
    status = read_status(run.run_dir, run.clock)
    assert [rank.rank for rank in status.ranks if rank.slow] == [3]
    assert (len(status.ranks), status.seen_at) == (8, run.clock.now() - 3.0)
    run.restart("rank process 7 died")
    status = read_status(run.run_dir, run.clock)
    assert (status.ranks, status.seen_at) == ([], None)


def test_a_waiting_run_says_for_what_until_it_has_started(run: WrittenRun) -> None:
    run.claim()
    waiting = Waiting(
        since=990.0,
        asked={"GPU": 8.0},
        needed=1,
        wanted=1,
        ready=0,
        nodes=[offer("a", {"GPU": 0.0}, {"GPU": 8.0}, "0 of 8 GPU free")],
    )
    run.show(waiting=waiting)
    assert read_status(run.run_dir, run.clock).waiting == waiting
    run.start(1, 8)
    assert read_status(run.run_dir, run.clock).waiting is None  # now.json is a second old


def test_segments_are_counted_while_some_are_still_to_be_prepared(run: WrittenRun) -> None:
    run.claim()
    for named, prepared in ((3, (3, 8)), (8, None)):
        publish_json(run.run_dir.manifest, {"format": 1, "segments": ["id"] * named, "expected": 8})
        assert read_status(run.run_dir, run.clock).prepared == prepared
    publish_json(run.run_dir.manifest, {"format": 1, "segments": ["id"] * 8})
    assert read_status(run.run_dir, run.clock).prepared is None
