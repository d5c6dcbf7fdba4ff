"""Snapshots and checkpoints on their way: all ranks know the same, and nothing is thrown away too early.

The ranks of a world are here one after another, and the test says what their vaults answer when."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint.behind import SLOTS
from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Answer, Committed, Kept, Written
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import CheckpointNews
from orchestrator.core.words import World
from orchestrator.train.saver import Saver, Votes
from tests.fakes.saving import small_model, split
from tests.fakes.small_runs import RecordingSink, SmallManifest, small_config


class ScriptedVault:
    """Answers what the test puts into `coming`."""

    def __init__(self) -> None:
        self.slots = [Slot.create("test") for _ in range(SLOTS)]
        self.asked: list[tuple[str, int]] = []  # what, and the step of the slot
        self.coming: list[Answer] = []

    def keep(self, slot: int, *, write: bool) -> None:
        self.asked.append(("write" if write else "keep", self.slots[slot].part().step))

    def commit(self, slot: int) -> None:
        self.asked.append(("commit", self.slots[slot].part().step))

    def discard(self, slot: int) -> None:
        self.asked.append(("discard", self.slots[slot].part().step))

    def close(self) -> None: ...

    def answers(self, *, wait: bool = False) -> list[Answer]:
        assert self.coming or not wait, "it would wait for ever"
        found, self.coming = self.coming, []
        return found


class Ranks:
    """All savers of a world, in step."""

    def __init__(self, size: int, folder: Path) -> None:
        self.vaults = [ScriptedVault() for _ in range(size)]
        self.sinks = [RecordingSink(folder / "skips.jsonl") for _ in range(size)]
        states = split(small_model(), size, random.Random(0))
        history = SimpleNamespace(rows=[], at=lambda step: None)
        self.savers = []
        for rank, (vault, sink, state) in enumerate(zip(self.vaults, self.sinks, states, strict=True)):
            job: Any = SimpleNamespace(
                config=small_config(checkpoint={"snapshot_every": 1}),
                manifest=SmallManifest.make(),
                world=World.flat(rank, size),
                generation=4,
                checkpoints=folder,
                skips_file=folder / "skips.jsonl",
                sink=sink,
                clock=SystemClock(),
                vault=vault,
                start=None,
                wandb_run_id=None,
                interruptible=nullcontext,
            )
            engine: Any = SimpleNamespace(look=lambda state=state: state)
            self.savers.append(Saver(job, engine, history, 0))  # type: ignore[arg-type]

    def snap(self, step: int) -> None:
        for saver in self.savers:
            saver.snap(step, ())

    def save(self, step: int) -> None:
        for saver in self.savers:
            saver.save(step, ())

    def answer(self, make: Callable[[int], Answer | None]) -> None:
        for rank, vault in enumerate(self.vaults):
            if (answer := make(rank)) is not None:
                vault.coming.append(answer)

    def agree(self) -> None:
        """The all-reduce of a step."""
        said = [saver.votes() for saver in self.savers]
        for saver in self.savers:
            saver.hear(Votes(*(sum(votes) for votes in zip(*said, strict=True))))

    def flush(self) -> None:
        for sink in self.sinks:
            sink.flush()

    @property
    def news(self) -> list[CheckpointNews]:
        return [news for sink in self.sinks for news in sink.news if isinstance(news, CheckpointNews)]


def test_a_snapshot_that_is_not_kept_everywhere_leaves_out_the_next(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    ranks.snap(1)
    ranks.vaults[0].coming.append(Kept(step=1))
    ranks.agree()
    ranks.snap(2)
    assert [saver.skipped for saver in ranks.savers] == [1, 1]
    ranks.vaults[1].coming.append(Kept(step=1))
    ranks.agree()
    ranks.snap(3)
    assert [vault.asked for vault in ranks.vaults] == [[("keep", 1), ("keep", 3)]] * 2


def test_a_snapshot_is_not_whole_before_what_was_told_is_on_disk(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    ranks.sinks[1].is_slow = True
    ranks.sinks[1].tell(CheckpointNews(step=0, generation=4, folder="", seconds=0, size_bytes=0))
    ranks.snap(1)
    ranks.answer(lambda rank: Kept(step=1))
    ranks.agree()
    ranks.snap(2)
    assert [saver.skipped for saver in ranks.savers] == [1, 1]
    ranks.flush()
    ranks.agree()
    ranks.snap(3)
    assert [saver.skipped for saver in ranks.savers] == [1, 1]


def test_the_last_whole_snapshot_stays_until_the_next_is_whole(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    for step in range(1, 8):
        ranks.snap(step)
        ranks.answer(lambda rank, step=step: Kept(step=step))  # type: ignore[misc]
        if step > 1:
            held = [{slot.part().step for slot in vault.slots if slot.is_whole} for vault in ranks.vaults]
            assert all({step - 1, step} <= steps for steps in held)
        ranks.agree()


def test_a_checkpoint_is_committed_when_all_have_written_and_what_was_told_is_on_disk(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    ranks.sinks[1].is_slow = True
    ranks.sinks[1].tell(CheckpointNews(step=0, generation=4, folder="", seconds=0, size_bytes=0))
    ranks.save(5)
    ranks.answer(lambda rank: Kept(step=5))
    ranks.answer(lambda rank: Written(step=5) if rank else None)
    ranks.agree()
    ranks.answer(lambda rank: None if rank else Written(step=5))
    ranks.agree()
    assert ("commit", 5) not in ranks.vaults[0].asked  # rank 1 has told something that is not on disk yet
    ranks.flush()
    ranks.agree()
    ranks.agree()
    assert [vault.asked.count(("commit", 5)) for vault in ranks.vaults] == [1, 0]
    assert [saver.checkpoint for saver in ranks.savers] == [None, None]
    path = tmp_path / "step-00000005-g0004"
    ranks.vaults[0].coming.append(Committed(step=5, path=str(path), size_bytes=77))
    ranks.agree()
    assert [saver.checkpoint for saver in ranks.savers] == [path, path]
    told = ranks.news[-1] if ranks.news[0].step == 0 else ranks.news[0]
    assert [(one.step, one.folder, one.size_bytes, one.problem) for one in ranks.news if one.step] == [
        (5, path.name, 77, "")
    ]
    assert told is not None
    assert [saver.finish(must_be_saved=True) for saver in ranks.savers] == [path, path]


def test_what_one_rank_cannot_write_costs_this_checkpoint_only(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    ranks.save(5)
    ranks.answer(lambda rank: Kept(step=5))
    ranks.answer(lambda rank: Written(step=5, problem="No space left on device" if rank else ""))
    ranks.flush()
    ranks.agree()
    assert [vault.asked[1:] for vault in ranks.vaults] == [[("discard", 5)], []]
    assert [(one.step, one.folder) for one in ranks.news] == [(5, "")]
    assert "another rank" in ranks.news[0].problem
    with pytest.raises(TrainingFailed, match="No space left"):
        ranks.savers[1].finish(must_be_saved=True)
    assert ranks.savers[1].finish(must_be_saved=False) is None
    ranks.save(6)
    ranks.answer(lambda rank: Kept(step=6))
    ranks.answer(lambda rank: Written(step=6))
    ranks.flush()
    ranks.agree()
    ranks.vaults[0].coming.append(Committed(step=6, path="x", size_bytes=1))
    ranks.agree()
    assert ranks.savers[1].finish(must_be_saved=True) == tmp_path / "step-00000006-g0004"


def test_a_checkpoint_that_is_refused_is_told_with_its_reason(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    ranks.save(5)
    ranks.answer(lambda rank: Kept(step=5))
    ranks.answer(lambda rank: Written(step=5))
    ranks.flush()
    ranks.agree()
    ranks.vaults[0].coming.append(Committed(step=5, problem="elements 3 to 4 are missing"))
    ranks.agree()
    assert [one.problem for one in ranks.news] == ["elements 3 to 4 are missing"]
    assert [saver.checkpoint for saver in ranks.savers] == [None, None]
    for saver in ranks.savers:
        with pytest.raises(TrainingFailed):
            saver.finish(must_be_saved=True)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 3))
def test_whatever_comes_when_no_slot_is_filled_that_is_still_needed(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int
) -> None:
    """Vaults answer late and apart; disks fail. A slot whose step is not answered yet is left alone, ranks agree."""
    chance = random.Random(seed)
    ranks = Ranks(size, tmp_path_factory.mktemp("ranks"))
    owed: list[list[Answer]] = [[] for _ in range(size)]  # in the order in which they come
    saving = 0
    for step in range(1, 40):
        in_memory = [{answer.step for answer in due} for due in owed]
        held = [{slot.part().step: slot for slot in vault.slots if slot.is_whole} for vault in ranks.vaults]
        if not saving and chance.random() < 0.2 and not any(owed):
            ranks.save(step)
            saving = step
        else:
            ranks.snap(step)
        for rank, vault in enumerate(ranks.vaults):
            for what, asked in vault.asked:
                if what in ("keep", "write"):
                    owed[rank].append(Kept(step=asked))
                if what == "write":
                    owed[rank].append(Written(step=asked, problem="full" if chance.random() < 0.1 else ""))
                if what == "commit":
                    owed[rank].append(Committed(step=asked, path="x" if chance.random() < 0.9 else ""))
            vault.asked.clear()
            for needed in in_memory[rank]:
                assert held[rank][needed].part().step == needed
            while owed[rank] and chance.random() < 0.6:
                vault.coming.append(owed[rank].pop(0))
        if chance.random() < 0.7:
            ranks.flush()
        ranks.agree()
        assert len({(saver.checkpoint, saver.skipped) for saver in ranks.savers}) == 1
        if saving and any(news.step == saving for news in ranks.news):
            saving = 0
