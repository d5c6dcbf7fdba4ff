"""Re-form: every world and stage goes on from every other one's snapshot, and nothing stays of the worlds before.

One gang of four processes; ranks that a world does not need wait for the next one."""

from functools import partial
from typing import Any

import pytest
import xxhash

from orchestrator.checkpoint.slot import Slot
from orchestrator.train.engine import Engine, warm
from orchestrator.train.models.build import build_model
from orchestrator.train.models.initial import initial_source as initial_weights
from orchestrator.train.reform import dissolve, form, reform
from tests.fakes.gang import run_gang
from tests.fakes.reforming import footprint, formation, snap
from tests.fakes.slot_source import read_slots
from tests.fakes.small_runs import LLAMA, VOCAB, small_config
from tests.fakes.tiny_model import gather, initial_source, tiny_config, train_step

pytestmark = [pytest.mark.cluster, pytest.mark.long]

PLACES = [(stage, size) for stage in range(4) for size in range(1, 5)]
LR = 1e-2
BOUND = 2e-6  # relative, of losses after moving to another world or stage; in fp32
LARGER = LLAMA | {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6}  # 6 million parameters
TIMES, SETTLED = 13, 3  # the first ones fill caches
GROWTH = 16 * 2**20  # bytes over ten re-forms, of which one engine alone has more

Place = tuple[int, int]


# ---- every pair ----


def visit_all(rank: int, most: int, store: Any) -> dict[str, Any]:
    warm("cpu", threads=1)
    slots = {place: Slot.create(f"{place}") for place in PLACES}
    found: dict[str, Any] = {"unbroken": {}, "state": {}, "again": {}, "moved": {}}
    for place in PLACES:
        if rank < place[1]:
            found["unbroken"][place], found["state"][place] = begin(rank, store, place, slots[place])
    for there in PLACES:
        if rank < there[1]:
            visit(rank, store, there, found)
    store.set(f"left by {rank}", "")
    store.wait([f"left by {other}" for other in range(most)])  # slots end with their process
    return found


def begin(rank: int, store: Any, place: Place, slot: Slot) -> tuple[list[float], dict[Any, str]]:
    """Three steps, a snapshot, and how it goes on from there: losses, and the state by checksums."""
    stage, size = place
    formed = formation(rank, size, store, f"begin {place}", tiny_config(stage))
    engine, world = form(formed, initial_source()), formed.world
    for step in range(3):
        train_step(engine, world, step, LR)
    snap(engine, world, slot, 3)
    store.set(f"slot {place} {rank}", slot.path)
    state = checksums(engine, world)
    losses = [train_step(engine, world, step, LR)[0] for step in range(3, 5)]
    dissolve(engine)
    return losses, state


def visit(rank: int, store: Any, there: Place, found: dict[str, Any]) -> None:
    """All snapshots one after another, in the same processes."""
    engine: Engine | None = None
    stage, size = there
    for here in PLACES:
        place = formation(rank, size, store, f"{here} to {there}", tiny_config(stage))
        source = read_slots([store.get(f"slot {here} {other}").decode() for other in range(here[1])])
        engine = form(place, source) if engine is None else reform(engine, place, source)
        source.close()
        found["moved"][here, there] = checksums(engine, place.world)
        found["again"][here, there] = [train_step(engine, place.world, step, LR)[0] for step in range(3, 5)]
    if engine is not None:
        dissolve(engine)


def checksums(engine: Engine, world: Any) -> dict[Any, str]:
    whole = gather(engine, world)
    return {place: xxhash.xxh3_64_hexdigest(values.contiguous().numpy()) for place, values in whole.values.items()} | {
        name: str(whole.scalars(name)) for name, _ in whole.values
    }


@pytest.fixture(scope="module")
def visits() -> list[dict[str, Any]]:
    return run_gang(4, visit_all, deadline_s=900.0)


@pytest.mark.timeout(1000)
def test_every_world_and_stage_takes_over_every_snapshot_bit_for_bit(visits: list[dict[str, Any]]) -> None:
    first = visits[0]
    assert len(first["moved"]) == len(PLACES) ** 2
    wrong = [pair for pair, state in first["moved"].items() if state != first["state"][pair[0]]]
    assert not wrong


def test_on_the_same_world_and_stage_training_goes_on_bit_equal(visits: list[dict[str, Any]]) -> None:
    first = visits[0]
    for place in PLACES:
        assert first["again"][place, place] == first["unbroken"][place], place


def test_on_another_one_losses_agree_within_rounding(visits: list[dict[str, Any]]) -> None:
    first = visits[0]
    for (here, there), losses in first["again"].items():
        assert losses == pytest.approx(first["unbroken"][here], rel=BOUND), (here, there)


def test_all_ranks_see_the_same_losses(visits: list[dict[str, Any]]) -> None:
    for other in visits[1:]:
        for pair, losses in other["again"].items():
            assert losses == visits[0]["again"][pair]


# ---- ten in a row ----


def reform_often(rank: int, size: int, store: Any) -> dict[int, list[dict[str, int]]]:
    warm("cpu", threads=1)
    return {stage: reform_at(rank, size, store, stage) for stage in range(4)}


def reform_at(rank: int, size: int, store: Any, stage: int) -> list[dict[str, int]]:
    config = small_config(LARGER, stage=stage, train={"precision": "bf16"})
    build = partial(build_model, config, VOCAB)
    slot = Slot.create(f"stage {stage}")
    store.set(f"slot {stage} {rank}", slot.path)
    place = formation(rank, size, store, f"stage {stage} begins", config, build)
    engine = form(place, initial_weights(config, VOCAB))
    prints = []
    for number in range(TIMES):
        train_step(engine, place.world, number, LR)
        snap(engine, place.world, slot, number)
        source = read_slots([store.get(f"slot {stage} {other}").decode() for other in range(size)])
        place = formation(rank, size, store, f"stage {stage}, {number}", config, build)
        dissolve(engine)
        prints.append(footprint())
        engine = form(place, source)  # together they are what reform does
        source.close()
    dissolve(engine)
    slot.close()
    return prints


@pytest.fixture(scope="module")
def prints() -> list[dict[int, list[dict[str, int]]]]:
    return run_gang(2, reform_often, deadline_s=600.0)


@pytest.mark.timeout(700)
@pytest.mark.parametrize("stage", range(4))
def test_ten_re_forms_in_a_row_leave_nothing_behind(prints: Any, stage: int) -> None:
    for of_rank in prints:
        settled, last = of_rank[stage][SETTLED - 1], of_rank[stage][-1]
        counted = [name for name in settled if name != "own bytes"]
        assert {name: last[name] for name in counted} == {name: settled[name] for name in counted}
        assert last["own bytes"] - settled["own bytes"] < GROWTH
