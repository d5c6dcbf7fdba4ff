"""What `longhaul prune` shows, refuses and asks its place to remove."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from launch.leftovers import Leftover, PruneWish
from launch.prune import prune
from launch.screen import Screen
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode
from orchestrator.tracking.status import RunStatus, SeenState

NO_WISH = PruneWish()
ROOT = Path("/home/somebody/with/a/long/path/to/the/runs")


def leftover(run: str, path: str, what: str, why: str, size_bytes: int) -> Leftover:
    return Leftover(run=run, path=ROOT / run / path, what=what, why=why, size_bytes=size_bytes)


LEFTOVERS = [
    leftover("llama-7b", "checkpoints/step-00001000-g0001", "checkpoint", "a newer one stays", 84_000_000_000),
    leftover("llama-7b", "checkpoints/step-00002000-g0003", "checkpoint", "a newer one stays", 84_000_000_000),
    *(
        leftover("llama-7b", f"logs/rank-10.0.0.1-{n}.log.000001", "older log", "newer lines stay", 16_777_216)
        for n in range(6)
    ),
    leftover("quickstart", ".lease.json.7.part", "unfinished file", "its writer died", 12),
]


class Runs:
    """A launch.place.Place of two runs, one of which lives."""

    def __init__(self, leftovers: list[Leftover]) -> None:
        self._leftovers = leftovers
        self.removed_with: list[tuple[Sequence[str], PruneWish]] = []

    def status(self, name: str) -> RunStatus:
        state = SeenState.RUNNING if name == "alive" else SeenState.DONE
        return RunStatus(name=name, path=str(ROOT / name), state=state, read_at=0.0)

    def leftovers(self, names: Sequence[str], wish: PruneWish) -> list[Leftover]:
        return self._leftovers

    def remove(self, names: Sequence[str], wish: PruneWish) -> list[Leftover]:
        self.removed_with.append((names, wish))
        return self._leftovers


def run(place: Runs, *names: str, yes: bool = False, as_json: bool = False, wish: PruneWish = NO_WISH) -> str:
    text = io.StringIO()
    screen = Screen(Console(file=text, width=80))
    assert prune(place, names, wish, yes=yes, as_json=as_json, screen=screen) is ExitCode.DONE  # type: ignore[arg-type]
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def test_what_would_go_is_shown_with_sizes_and_nothing_goes() -> None:
    place = Runs(LEFTOVERS)
    assert run(place) == (
        "run             size  what                        why\n"
        "llama-7b    168.0 GB  checkpoints:                a newer one stays\n"
        "                      step-00001000-g0001\n"
        "                      step-00002000-g0003\n"
        "llama-7b    100.7 MB  older logs:                 newer lines stay\n"
        "                      rank-10.0.0.1-0.log.000001\n"
        "                      rank-10.0.0.1-1.log.000001\n"
        "                      rank-10.0.0.1-2.log.000001\n"
        "                      rank-10.0.0.1-3.log.000001\n"
        "                      and 2 more\n"
        "quickstart  12 bytes  unfinished file:            its writer died\n"
        "                      .lease.json.7.part\n"
        "168.1 GB can go; nothing has been removed yet, --yes removes it"
    )
    assert place.removed_with == []


def test_what_went_is_shown() -> None:
    place, wish = Runs(LEFTOVERS[-1:]), PruneWish(older_than_days=3.0)
    text = run(place, "quickstart", yes=True, wish=wish)
    assert place.removed_with == [(("quickstart",), wish)]
    assert text.splitlines()[-1] == "12 bytes removed"


def test_a_run_goes_by_its_path() -> None:
    whole = leftover("quickstart", "", "run", "done for 12.0 days", 5_000)
    assert run(Runs([whole]), "quickstart", yes=True) == (
        "run           size  what                                      why\n"
        "quickstart  5.0 kB  run:                                      done for 12.0 days\n"
        "                    /home/somebody/with/a/long/path/to/the/r\n"
        "                    uns/quickstart\n"
        "5.0 kB removed"
    )


def test_a_run_that_lives_is_named() -> None:
    assert run(Runs([]), "alive", "quickstart") == "alive is running, so it is left alone\nnothing to remove"


def test_for_programs_there_are_only_objects_one_a_line() -> None:
    rows = run(Runs(LEFTOVERS), "alive", as_json=True).splitlines()
    assert [Leftover.from_json(json.loads(row)) for row in rows] == LEFTOVERS


@pytest.mark.parametrize("days", [-1.0, float("nan")])
def test_only_a_number_of_days_is_an_age(days: float) -> None:
    with pytest.raises(BadInput, match="no number of days"):
        run(Runs(LEFTOVERS), yes=True, wish=PruneWish(older_than_days=days))


def test_whole_runs_never_go_by_accident() -> None:
    place = Runs(LEFTOVERS)
    with pytest.raises(BadInput, match="name the runs"):
        run(place, yes=True, wish=PruneWish(whole=True))
    assert place.removed_with == []
    for names, days in ((("quickstart",), None), ((), 30.0)):
        run(place, *names, yes=True, wish=PruneWish(whole=True, older_than_days=days))
    assert len(place.removed_with) == 2
