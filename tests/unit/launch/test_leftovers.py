"""What of a run can go and what never does: real run directories, with checkpoints as small as they can be."""

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from launch.leftovers import Leftover, PruneWish, find_leftovers, remove_leftovers
from orchestrator.checkpoint import layout
from orchestrator.checkpoint.found import newest_sound
from orchestrator.checkpoint.layout import RankRecord
from orchestrator.config.load import load_config
from orchestrator.config.show import dump_yaml
from orchestrator.storage.publish import publish_json
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.lease import Lease
from orchestrator.tracking.rundir import RunDir
from tests.fakes.clock import FakeClock

CONFIG = Path(__file__).parents[3] / "configs" / "tiny.yaml"
DAY_S = 86_400.0


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run of one generation that has stopped at 1,000 s."""
    return make_run(tmp_path / "one")


def make_run(path: Path, *sets: str, event: str = "stopped") -> RunDir:
    def fill(folder: Path) -> None:
        (folder / "config.yaml").write_text(dump_yaml(load_config(CONFIG, sets=sets).config))

    run = RunDir(path)
    run.create(fill)
    with closing(Journal.claim(run.events, FakeClock())) as journal:
        journal.append(event, exit_code=130)
    return run


def save(run: RunDir, step: int, loss: float | None = None) -> Path:
    """A sound checkpoint of one rank."""
    path = run.checkpoints / layout.checkpoint_name(step, 1)
    path.mkdir(parents=True)
    data = b"x" * 100
    (path / layout.data_name(0)).write_bytes(data)
    record = RankRecord(file=layout.data_name(0), size_bytes=100, xxh3_128=layout.digest(data)).to_bytes()
    manifest = layout.to_bytes({"format": 1, "validation_loss": loss, "records": [layout.digest(record)]})
    (path / layout.record_name(0)).write_bytes(record)
    (path / layout.MANIFEST).write_bytes(manifest)
    (path / layout.COMMIT).write_bytes(layout.commit_bytes(manifest))
    return path


def make(path: Path, size_bytes: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size_bytes)
    return path


def find(run: RunDir, clock: FakeClock | None = None, **wish: Any) -> list[Leftover]:
    return find_leftovers(run, PruneWish(**wish), clock or FakeClock())


def remove(run: RunDir, clock: FakeClock | None = None, **wish: Any) -> list[Leftover]:
    """And nothing else changed."""
    before = set(run.path.parent.rglob("*"))
    removed = remove_leftovers(run, PruneWish(**wish), clock or FakeClock())
    gone = before - set(run.path.parent.rglob("*"))
    assert {path for path in gone if path.parent not in gone} == {one.path for one in removed}
    return removed


def paths(found: list[Leftover]) -> list[Path]:
    return [one.path for one in found]


def test_what_nobody_needs_goes_and_what_somebody_needs_stays(run: RunDir) -> None:
    old, newest = save(run, 10), save(run, 20)
    unfinished = make(run.checkpoints / layout.checkpoint_name(30, 2) / ".rank-00000.json.7.part").parent
    part = make(run.path / ".lease.json.7.part")
    make(run.logs / "rank-h1-0.log")
    older_logs = [make(run.logs / f"rank-h1-0.log.00000{n}", 1_000) for n in (1, 2)]
    segments = [make(run.path / "wandb" / f"offline-run-2026010{n}_000000-abc" / "run-abc.wandb") for n in (1, 2)]
    for kept in ("metrics.jsonl", "ledger.jsonl", "plan.json", "wandb/debug.log", "wandb/run_id.json"):
        make(run.path / kept)
    found = find(run)
    assert paths(found) == [old, unfinished, part, *older_logs, segments[0].parent]
    assert found[0].size_bytes == sum(file.stat().st_size for file in old.iterdir())
    assert [one.size_bytes for one in found[1:]] == [10, 10, 1_000, 1_000, 10]
    assert remove(run) == found
    assert newest_sound(run.checkpoints) == (newest, [])
    assert find(run) == []


def test_the_best_checkpoints_stay_as_the_config_says(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", "checkpoint.keep.best=1", "evaluate.every_steps=5")
    _, best, other, _ = (save(run, step, loss) for step, loss in ((5, 4.0), (10, 2.0), (15, 3.0), (20, 2.5)))
    assert best not in paths(find(run))
    assert other in paths(find(run))


def test_the_only_sound_checkpoint_stays_whatever_lies_beside_it(run: RunDir) -> None:
    only = save(run, 10)
    assert find(run) == []
    damaged = save(run, 20)
    (damaged / layout.data_name(0)).unlink()
    assert remove(run) == []
    assert newest_sound(run.checkpoints)[0] == only


def test_damage_that_only_reading_shows_keeps_the_older_checkpoint(run: RunDir) -> None:
    oldest, older, newest = save(run, 10), save(run, 20), save(run, 30)
    (newest / layout.data_name(0)).write_bytes(b"y" * 100)
    assert paths(find(run)) == [oldest, older]  # a look is not enough to see it
    assert paths(remove(run)) == [oldest]
    assert newest_sound(run.checkpoints)[0] == older


@pytest.mark.parametrize("event", ["claimed", "started", "stopping", "fault"])
def test_a_run_that_lives_is_left_alone(tmp_path: Path, event: str) -> None:
    run = make_run(tmp_path / "one", event=event)
    save(run, 10)
    save(run, 20)
    later = FakeClock(1_000.0 + 365 * DAY_S)
    for wish in ({}, {"whole": True}, {"older_than_days": 1.0}):
        assert find(run, later, **wish) == []
        assert remove(run, later, **wish) == []


def test_a_run_whose_controller_is_gone_is_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", event="started")
    lease = Lease(generation=1, t=1_000.0, lease_s=15.0, address="a", host="elsewhere", members=[], all_here=False)
    publish_json(run.lease, {"format": 1, **asdict(lease)})
    old, _ = save(run, 10), save(run, 20)
    assert find(run, FakeClock(1_010.0)) == []
    assert paths(remove(run, FakeClock(1_100.0))) == [old]


class ResumingClock(FakeClock):
    """At the given look at the clock another controller claims the run."""

    def __init__(self, run: RunDir, at_look: int) -> None:
        super().__init__()
        self._run, self._looks_left = run, at_look

    def now(self) -> float:
        self._looks_left -= 1
        if self._looks_left == 0:
            Journal.claim(self._run.events, FakeClock()).close()
        return super().now()


@pytest.mark.parametrize("wish", [{}, {"whole": True}])
def test_a_run_that_is_resumed_meanwhile_is_left_alone(run: RunDir, wish: dict[str, Any]) -> None:
    save(run, 10)
    save(run, 20)
    assert len(find(run, **wish)) == 1
    assert remove(run, ResumingClock(run, at_look=1), **wish) == []


def test_only_runs_that_ended_long_ago_are_old(run: RunDir) -> None:
    save(run, 10)
    save(run, 20)
    clock = FakeClock(1_000.0 + 30 * DAY_S)
    assert find(run, clock, older_than_days=30.1) == []
    assert len(find(run, clock, older_than_days=29.9)) == 1


def test_as_a_whole_everything_goes(run: RunDir) -> None:
    save(run, 10)
    make(run.logs / "rank-h1-0.log", 1_000)
    other = make_run(run.path.with_name("other"))
    (found,) = find(run, FakeClock(1_000.0 + 3 * DAY_S), whole=True)
    assert (found.run, found.path, found.what, found.why) == ("one", run.path, "run", "stopped for 3.0 days")
    assert found.size_bytes > 1_100
    assert len(remove(run, whole=True)) == 1
    assert list(run.path.parent.iterdir()) == [other.path]


LINKS: list[Callable[[RunDir, Path], None]] = [
    lambda run, outside: (run.checkpoints / layout.checkpoint_name(5, 1)).symlink_to(outside),
    lambda run, outside: (run.path / "wandb" / "offline-run-1").symlink_to(outside),
    lambda run, outside: run.logs.symlink_to(outside),
]


@pytest.mark.parametrize("link", LINKS)
def test_nothing_is_removed_through_a_link(run: RunDir, tmp_path: Path, link: Callable[[RunDir, Path], None]) -> None:
    """Whatever lies behind it: a checkpoint, a segment, logs."""
    elsewhere = make_run(tmp_path / "elsewhere")
    outside = save(elsewhere, 5)
    make(outside / "rank-h1-0.log.000001")
    make(run.path / "wandb" / "offline-run-2" / "x")
    save(run, 10)
    link(run, outside)
    before = sorted(elsewhere.path.rglob("*"))
    assert find(run) == []
    assert remove(run) == []
    remove_leftovers(run, PruneWish(whole=True), FakeClock())
    assert not run.path.exists()
    assert sorted(elsewhere.path.rglob("*")) == before


def test_a_run_directory_that_is_a_link_is_left_alone(run: RunDir) -> None:
    link = RunDir(run.path.with_name("link"))
    link.path.symlink_to(run.path)
    assert find(link, whole=True) == []


def test_a_leftover_survives_json(run: RunDir) -> None:
    (found,) = find(run, whole=True)
    assert Leftover.from_json(found.to_json()) == found
    assert found.to_json()["path"] == os.fspath(run.path)
