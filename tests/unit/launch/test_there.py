"""Runs on a cluster, as their commands' answers and Ray's jobs tell of them."""

import json
from typing import Any

import pytest

from launch.leftovers import PruneWish
from launch.remote.dashboard import CalledAgain, ConnectionLost
from launch.remote.there import There
from orchestrator.core.errors import BadInput, ClusterError
from orchestrator.tracking.logs import LogWish
from orchestrator.tracking.status import RunStatus, SeenState, to_json
from tests.fakes.dashboards import FakeDashboard, Job

LOST = ConnectionLost("the connection broke")


def there(dashboard: FakeDashboard, said: list[str] | None = None) -> There:
    heard = [] if said is None else said
    return There(dashboard, heard.append, pause=lambda _: None)  # type: ignore[arg-type]


def status_line(state: str, step: int = 0, path: str = "/mnt/runs/a") -> str:
    name = path.rpartition("/")[2]
    return json.dumps(to_json(RunStatus(name=name, path=path, state=SeenState(state), read_at=5.0, step=step)))


def log_line(text: str, offset: int) -> str:
    return json.dumps({"file": "rank-h1-0", "rank": 0, "text": text, "cursor": [0, offset]})


def test_a_run_is_found_by_name_where_its_newest_job_says() -> None:
    dashboard = FakeDashboard([Job("/mnt/runs/a"), Job("/mnt/runs/b"), Job("")], [[status_line("running", 7)]])
    assert there(dashboard).status("a").step == 7
    assert dashboard.asked == [("status", "/mnt/runs/a", "--json")]


def test_a_path_is_asked_for_even_when_the_cluster_has_forgotten_its_jobs() -> None:
    dashboard = FakeDashboard([], [[status_line("stopped")]])
    assert there(dashboard).status("/mnt/runs/a").state == "stopped"


def test_a_name_that_is_none_is_told_with_the_nearest_and_one_of_two_runs_with_their_paths() -> None:
    jobs = [Job("/mnt/runs/voyage"), Job("/mnt/runs/b"), Job("/other/b")]
    with pytest.raises(BadInput, match=r"did you mean 'voyage'\?"):
        there(FakeDashboard(jobs)).status("voyag")
    with pytest.raises(BadInput, match=r"2 runs have this name\n  -> .*/mnt/runs/b, /other/b"):
        there(FakeDashboard(jobs)).status("b")


def test_a_job_that_has_no_run_directory_yet_is_preparing_and_tells_what_it_said_last() -> None:
    no_run: list[Any] = [BadInput("no such run")]
    dashboard = FakeDashboard([Job("/mnt/runs/a")], [no_run], output=["run directory: /mnt/runs/a", "tokens: 12", ""])
    status = there(dashboard).status("a")
    assert (status.state, status.reason) == (SeenState.PREPARING, "tokens: 12")


def test_of_a_job_that_has_ended_without_a_run_the_error_is_told() -> None:
    dashboard = FakeDashboard([Job("/mnt/runs/a", alive=False)], [[BadInput("no such run")]])
    with pytest.raises(BadInput, match="no such run"):
        there(dashboard).status("a")


def test_a_list_holds_the_runs_of_all_roots_and_those_that_are_coming() -> None:
    jobs = [Job("/mnt/runs/a"), Job("/home/runs/b", start_time=9_000), Job("/home/runs/c", alive=False)]
    dashboard = FakeDashboard(jobs, [[status_line("done")]])
    assert [(run.name, run.state) for run in there(dashboard).runs()] == [("b", "preparing"), ("a", "done")]
    assert dashboard.asked == [("list", "--root=/home/runs", "--root=/mnt/runs", "--json")]
    assert there(FakeDashboard([Job("")])).runs() == []


def test_watching_goes_on_over_a_broken_connection_and_ends_with_the_run() -> None:
    calls = [
        [status_line("running", 1)],  # asked first: does it exist yet?
        [status_line("running", 1), LOST],
        [LOST],
        [status_line("running", 5), CalledAgain()],
        [status_line("running", 6), status_line("done", 9)],
    ]
    said: list[str] = []
    steps = [status.step for status in there(FakeDashboard([Job("/mnt/runs/a")], calls), said).watch("a")]
    assert steps == [1, 5, 6, 9]
    assert said == ["the connection broke; trying again in 1 s", "the connection broke; trying again in 2 s"]


def test_followed_logs_go_on_after_the_last_line_that_came() -> None:
    calls = [[log_line("one", 4), log_line("two", 8), LOST], [log_line("three", 14)]]
    dashboard = FakeDashboard([Job("/mnt/runs/a")], calls)
    wish = LogWish(rank=0, follow=True, lines=5)
    assert [line.text for line in there(dashboard).logs("a", wish)] == ["one", "two", "three"]
    first, second = dashboard.asked
    assert first[-1] == "--cursor={}"
    assert json.loads(second[-1].removeprefix("--cursor=")) == {"rank-h1-0": [0, 8]}
    assert {"--rank=0", "--lines=5", "--follow"} <= set(second)


def test_looking_is_repeated_over_a_broken_connection() -> None:
    said: list[str] = []
    dashboard = FakeDashboard([Job("/mnt/runs/a")], [[LOST], [status_line("running", 3)]])
    assert there(dashboard, said).status("a").step == 3
    assert said == ["the connection broke; trying again in 1 s"]


def test_a_wish_is_not_repeated_by_itself() -> None:
    with pytest.raises(ClusterError, match="broke"):
        there(FakeDashboard([Job("/mnt/runs/a")], [[LOST]])).ask_to_stop("a", at_once=True)


def test_pruning_all_is_pruning_every_root() -> None:
    dashboard = FakeDashboard([Job("/mnt/runs/a"), Job("/mnt/runs/b")], [[], []])
    place = there(dashboard)
    place.leftovers([], PruneWish(older_than_days=2.0))
    place.remove(["b"], PruneWish(whole=True))
    assert dashboard.asked == [
        ("prune", "--root=/mnt/runs", "--older-than=2.0", "--json"),
        ("prune", "/mnt/runs/b", "--whole", "--yes", "--json"),
    ]
