"""How far a run is written down: the newest generation's rows, and with keys only where every rank has told its own."""

from pathlib import Path

from orchestrator.core.news import KeysNews
from orchestrator.core.words import Span
from orchestrator.storage.lines import LineFile
from orchestrator.tracking.keys import KeyParts
from orchestrator.tracking.told import count_told_steps, measure_pace


def write_ledger(folder: Path, *steps: tuple[int, int], count: int = 2) -> None:
    with LineFile(folder / "ledger.jsonl", head={"format": 1}) as file:
        file.append([{"generation": generation, "step": step, "count": count} for generation, step in steps])


def keys_of(step: int, *slots: int) -> KeysNews:
    return KeysNews(step=step, generation=1, slots=list(slots), spans=[[Span(0, 0, 0, 8)] for _ in slots])


def add_keys(folder: Path, *news: KeysNews) -> None:
    keys = KeyParts(folder)
    keys.add(news)
    keys.close()


def test_it_is_as_far_as_the_last_row(tmp_path: Path) -> None:
    assert count_told_steps(tmp_path, with_keys=False) == 0
    write_ledger(tmp_path, (1, 0), (1, 1), (1, 2))
    assert count_told_steps(tmp_path, with_keys=False) == 3


def test_a_generation_that_went_back_takes_over_with_its_first_row(tmp_path: Path) -> None:
    write_ledger(tmp_path, (1, 0), (1, 1), (1, 2), (2, 1), (1, 3))  # the last one came late
    assert count_told_steps(tmp_path, with_keys=False) == 2


def test_of_a_long_ledger_the_end_is_enough(tmp_path: Path) -> None:
    write_ledger(tmp_path, *((1, step) for step in range(5000)))
    assert count_told_steps(tmp_path, with_keys=False) == 5000


def test_a_step_is_told_with_its_keys_when_every_rank_has_told_them(tmp_path: Path) -> None:
    write_ledger(tmp_path, (1, 0), (1, 1), (1, 2))
    add_keys(tmp_path, keys_of(0, 0), keys_of(0, 1), keys_of(1, 0), keys_of(2, 0))
    assert count_told_steps(tmp_path, with_keys=True) == 1
    add_keys(tmp_path, keys_of(1, 1))
    assert count_told_steps(tmp_path, with_keys=True) == 2
    add_keys(tmp_path, keys_of(2, 1))
    assert count_told_steps(tmp_path, with_keys=True) == 3


def test_what_follows_a_step_without_all_its_keys_does_not_count(tmp_path: Path) -> None:
    """A batch that was left out has none."""
    write_ledger(tmp_path, (1, 0), (1, 1))
    write_ledger(tmp_path, (1, 2), count=0)
    add_keys(tmp_path, keys_of(0, 0), keys_of(0, 1), keys_of(1, 0))
    assert count_told_steps(tmp_path, with_keys=True) == 1
    add_keys(tmp_path, keys_of(1, 1))
    assert count_told_steps(tmp_path, with_keys=True) == 3


def test_the_pace_is_that_of_the_last_steps(tmp_path: Path) -> None:
    assert measure_pace(tmp_path) == 0.0
    with LineFile(tmp_path / "metrics.jsonl", head={"format": 1}) as file:
        file.append([{"step": step, "step_s": 0.5 if step < 5000 else 0.25} for step in range(10_000)])
        file.append([{"step": 10_000, "step_s": 9.0}, {"kind": "system", "t": 1.0}])
    assert measure_pace(tmp_path) == 0.25
