import multiprocessing
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from orchestrator.core.errors import Superseded
from orchestrator.tracking.journal import Journal, generation_file, generations, read_events
from tests.fakes.clock import FakeClock


def test_events_come_back_in_order_with_their_generation(tmp_path: Path) -> None:
    for generation in (1, 2):
        with closing(Journal.claim(tmp_path, FakeClock(), address="here")) as journal:
            assert journal.generation == generation
            journal.append("started", world_size=generation)
    events = [(e["generation"], e["event"]) for e in read_events(tmp_path)]
    assert events == [(1, "claimed"), (1, "started"), (2, "claimed"), (2, "started")]
    assert all({"t", "pid"} <= event.keys() for event in read_events(tmp_path))


def test_a_controller_that_was_superseded_writes_nothing_more(tmp_path: Path) -> None:
    with closing(Journal.claim(tmp_path, FakeClock())) as old:
        Journal.claim(tmp_path, FakeClock()).close()
        with pytest.raises(Superseded):
            old.append("done")
    assert [e["event"] for e in read_events(tmp_path)] == ["claimed", "claimed"]


def claim_some(folder: Path, count: int) -> list[int]:
    claimed = []
    for _ in range(count):
        with closing(Journal.claim(folder, FakeClock())) as journal:
            claimed.append(journal.generation)
    return claimed


def test_claims_at_the_same_time_get_different_generations(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        claimed = list(chain.from_iterable(pool.starmap(claim_some, [(tmp_path, 20)] * 3)))
    assert sorted(claimed) == list(range(1, 61))
    assert generations(tmp_path) == sorted(claimed)


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    with closing(Journal.claim(tmp_path, FakeClock())) as journal:
        journal.append("started")
    with generation_file(tmp_path, 1).open("ab") as file:
        file.write(b'{"event": "do')
    assert [e["event"] for e in read_events(tmp_path)] == ["claimed", "started"]


def test_a_controller_that_was_superseded_claims_no_further_generation(tmp_path: Path) -> None:
    """Its next one would be taken for newer than that of whoever has taken over."""
    first = Journal.claim(tmp_path, FakeClock())
    with closing(first.claim_next()) as second:
        assert second.generation == 2
        Journal.claim(tmp_path, FakeClock()).close()
        with pytest.raises(Superseded):
            second.claim_next()
    assert generations(tmp_path) == [1, 2, 3]


def claim_for(charge: str, folder: Path, *, after: int) -> None:
    Journal.claim(folder, FakeClock(), after=after, charge=charge).close()


def test_a_controller_that_is_started_again_claims_what_follows_its_own(tmp_path: Path) -> None:
    claim_for("a", tmp_path, after=0)
    claim_for("a", tmp_path, after=0)
    claim_for("b", tmp_path, after=2)
    claim_for("b", tmp_path, after=2)
    assert generations(tmp_path) == [1, 2, 3, 4]


def test_a_controller_that_is_started_again_after_another_has_taken_over_claims_nothing(tmp_path: Path) -> None:
    """As in a cluster that was cut off while the run went on in another one."""
    claim_for("a", tmp_path, after=0)
    claim_for("b", tmp_path, after=1)
    with pytest.raises(Superseded):
        claim_for("a", tmp_path, after=0)
    assert generations(tmp_path) == [1, 2]


def test_what_a_claim_does_not_say_for_whom_is_anothers(tmp_path: Path) -> None:
    """Journals of earlier versions."""
    Journal.claim(tmp_path, FakeClock()).close()
    with pytest.raises(Superseded):
        claim_for("a", tmp_path, after=0)
    claim_for("a", tmp_path, after=1)


def test_further_generations_are_claimed_with_the_same_words(tmp_path: Path) -> None:
    first = Journal.claim(tmp_path, FakeClock(), after=0, charge="a", address="here")
    with closing(first.claim_next().claim_next()):
        assert [(e["charge"], e["address"]) for e in read_events(tmp_path)] == [("a", "here")] * 3
