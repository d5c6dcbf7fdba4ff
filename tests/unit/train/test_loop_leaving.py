"""From one world into the next: left at one step by all, with a state that is whole. One gang of two ranks.

And a trainer that cannot begin, which must leave nothing in a process that goes on to other worlds."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.checkpoint.behind import SLOTS, Behind
from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Answer, Written
from orchestrator.config.running import KeepSection
from orchestrator.core.errors import CheckpointDamaged, ConfigError
from orchestrator.core.news import BegunNews, EvaluationNews
from orchestrator.core.words import RunState, Word
from orchestrator.train import engine, loop
from orchestrator.train.engine import leave_world, warm
from tests.fakes.gang import run_gang
from tests.fakes.reforming import footprint
from tests.fakes.slot_source import read_slots
from tests.fakes.small_runs import ScriptedHelm, small_config, train_small

FAILURES = ("optimizer", "engine", "state", "peer", "join", "joined")
WORLDS = 6  # that cannot begin, one after another
KEPT = {"snapshot_every": 1000}  # none is due


class SlowDisk(Behind):
    """What is written is not known before a helm has shown a step."""

    def __init__(self, slots: list[Slot], folder: Path, helm: ScriptedHelm, step: int) -> None:
        super().__init__(slots, folder, keep=KeepSection(), best_by="loss")
        self._helm, self._step, self._withheld = helm, step, list[Answer]()

    def answers(self, *, wait: bool = False) -> list[Answer]:
        found = self._withheld + super().answers(wait=wait and not self._withheld)
        is_slow = self._helm.shown[-1][0] < self._step and not wait
        self._withheld = [one for one in found if is_slow and isinstance(one, Written)]
        return [one for one in found if one not in self._withheld]


def run_all(rank: int, size: int, store: Any, folder: Path) -> dict[str, Any]:
    warm("cpu", threads=1)
    results: dict[str, Any] = {}
    vaults = []

    def run(name: str, config: Any, **options: Any) -> Any:
        outcome, sink = train_small(rank, size, store, config, folder / name, **options)
        results[f"{name} g{options.get('generation', 1)}"] = {
            "outcome": outcome,
            "rows": sink.rows(),
            "begun": sink.of(BegunNews),
            "evaluations": sink.of(EvaluationNews),
        }

    def make_vault(name: str) -> Behind:
        vaults.append(Behind(make_slots(), folder / name, keep=KeepSection(), best_by="loss"))
        return vaults[-1]

    config = small_config(stage=2, checkpoint=KEPT, evaluate={"every_steps": 3})
    run("whole", config)
    vault = make_vault("word")
    run("word", config, helm=leaving_helm(2 if rank == 1 else None), vault=vault, join_s=0.25)
    [slot] = [slot for slot in vault.slots if slot.is_whole]
    results["kept"] = (slot.place.step, slot.place.generation)
    run("word", config, generation=2, start=read_slots(share(store, "word", rank, size, slot.path)))
    run("stated", config, leave_at=3, vault=make_vault("stated"))
    run("stated-late", config, leave_at=6, vault=make_vault("stated-late"))
    run("disk", small_config(stage=2, checkpoint={"snapshot_every": None}), leave_at=3)
    helm = leaving_helm(4)
    config = small_config(stage=2, train={"steps": 12}, checkpoint=KEPT | {"every_steps": 4})
    run("slow", config, helm=helm, vault=SlowDisk(make_slots(), folder / "slow", helm, step=5))
    if rank == 0:
        results["left behind"] = fail_to_begin(store, folder)
    return results


def make_slots() -> list[Slot]:
    return [Slot.create("test") for _ in range(SLOTS)]


def leaving_helm(step: int | None) -> ScriptedHelm:
    return ScriptedHelm(stop_at=step, word=Word.LEAVE)


def share(store: Any, name: str, rank: int, size: int, path: str) -> list[str]:
    """Where the slots of all ranks are."""
    store.set(f"{name}-slot-{rank}", path)
    return [store.get(f"{name}-slot-{other}").decode() for other in range(size)]


def fail_to_begin(store: Any, folder: Path) -> dict[str, list[dict[str, int]]]:
    """What is left after each of many worlds of one rank, by what went wrong."""
    vault = Behind(make_slots(), folder, keep=KeepSection(), best_by="loss")  # a node's, which outlives them
    return {what: [fail_once(store, folder, what, number, vault) for number in range(WORLDS)] for what in FAILURES}


def fail_once(store: Any, folder: Path, what: str, number: int, vault: Behind) -> dict[str, int]:
    import deepspeed

    gone = ConnectionError("Connection closed by peer")
    place, name, error = {
        "optimizer": (engine, "make_optimizer", ConfigError("no such optimizer")),
        "engine": (engine, "Lookout", gone),
        "state": (loop.Engine, "insert", CheckpointDamaged("its bytes are not those that were written")),
        "peer": (loop, "sum_over_ranks", gone),
        "join": (deepspeed, "init_distributed", gone),
        "joined": (engine, "_forget_earlier_engines", gone),
    }[what]
    config = small_config(stage=(0, 3)[number % 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, raiser(error))
        with pytest.raises(type(error)):
            train_small(0, 1, store, config, folder / f"failed-{what}-{number}", vault=vault)
    leave_world()
    left = footprint()
    del left["own bytes"]  # too little here to tell from noise
    return left


def raiser(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise type(error)(*error.args)

    return fail


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaving")
    return run_gang(2, run_all, folder), folder


def test_word_heard_by_one_rank_makes_all_leave_at_the_same_step_with_a_whole_state_in_memory(ranks):
    results, folder = ranks
    for seen in results:
        outcome = seen["word g1"]["outcome"]
        assert (outcome.state, outcome.step, outcome.back_to) == (RunState.RUNNING, 3, None)
        assert seen["kept"] == (3, 1)
    assert [one.generation for one in list_checkpoints(folder / "word")] == [2], "disks have no part in it"


def test_the_next_world_goes_on_to_the_bit(ranks):
    (seen, _), _ = ranks
    assert seen["word g1"]["rows"] + seen["word g2"]["rows"] == seen["whole g1"]["rows"]
    assert seen["word g2"]["outcome"].state is RunState.DONE


def test_a_validation_that_is_due_is_done_by_the_world_that_is_left_and_only_by_it(ranks):
    (seen, _), _ = ranks
    told = [[(news.step, news.metrics["loss"]) for news in seen[f"word g{g}"]["evaluations"]] for g in (1, 2)]
    assert told[0] + told[1] == [(news.step, news.metrics["loss"]) for news in seen["whole g1"]["evaluations"]]
    assert [step for step, _ in told[0]] == [3]


def test_world_is_left_at_the_step_that_its_job_says(ranks):
    results, _ = ranks
    for seen in results:
        assert (seen["stated g1"]["outcome"].state, seen["stated g1"]["outcome"].step) == (RunState.RUNNING, 3)
        assert seen["stated-late g1"]["outcome"].state is RunState.DONE, "there is nothing left to leave for"


def test_where_memory_keeps_nothing_the_state_is_a_checkpoint(ranks):
    (seen, _), folder = ranks
    assert seen["disk g1"]["outcome"].state is RunState.RUNNING
    assert [one.step for one in list_checkpoints(folder / "disk")] == [3]


def test_world_is_not_left_while_a_checkpoint_is_on_its_way(ranks):
    results, folder = ranks
    steps = {seen["slow g1"]["outcome"].step for seen in results}
    assert len(steps) == 1
    assert min(steps) > 5, "the word came in step 4, and the disk was done in step 5"
    assert 4 in [one.step for one in list_checkpoints(folder / "slow")]


def test_a_world_tells_once_when_it_begins_and_what_that_took(ranks):
    (seen, other), _ = ranks
    [news] = seen["word g1"]["begun"]
    assert (news.step, news.generation) == (0, 1)
    assert set(news.seconds) == {"join", "build", "restore", "read"}
    assert news.seconds["join"] == 0.25
    assert all(0 < seconds < 60 for seconds in news.seconds.values())
    assert [news.step for news in seen["word g2"]["begun"]] == [3]
    assert not other["word g1"]["begun"], "rank 0 tells for all"


@pytest.mark.parametrize("what", FAILURES)
def test_trainer_that_cannot_begin_leaves_nothing_behind(ranks, what):
    (seen, _), _ = ranks
    left = seen["left behind"][what]
    assert left[-1] == left[-3], "of the same stage"
