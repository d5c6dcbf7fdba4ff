"""The whole trainer fed with pictures, of which two do not decode. One gang of two goes through all cases once."""

import math
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import PrefixStore

from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import EvaluationNews, HolesNews, NoteNews, StepNews
from orchestrator.core.words import RunState
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from orchestrator.data.proof.audit import Prepared, recompute
from orchestrator.data.proof.difference import compare_ledger
from orchestrator.prepare.run import prepare
from orchestrator.train.engine import warm
from orchestrator.train.evaluation.offline import EvaluationJob
from tests.fakes.changes import EVERYTHING
from tests.fakes.coloured_pictures import CLASSES, write_pictures
from tests.fakes.gang import run_gang
from tests.fakes.small_runs import RESNET, VIT, RecordingSink, picture_config, train_small

BROKEN = ((0, 3), (2, 7))  # shard and place; they come in steps 0 and 2
HOLE_STEPS = [0, 2]
STEPS, CHANGED_STEPS, BATCH = 6, 4, 10
EVERY_STEP: dict[str, Any] = {"checkpoint": {"every_steps": 1, "keep": {"last": 2 * STEPS}}}
EVALUATE: dict[str, Any] = {"evaluate": {"every_steps": STEPS}}
CHANGED: dict[str, Any] = {"augment": EVERYTHING, "mixup": {"alpha": 1.0}}
CUT_VIT = VIT | {"image_size": 8, "patch_size": 4}  # what the last of these changes cuts out


def make_config(folder: Path, model: dict[str, Any] | None = None, **sections: Any) -> Any:
    data = {"train": [{"path": str(folder / "pictures")}], "work": str(folder / "work"), "segment_shards": 2}
    return picture_config(model, data=data | sections.pop("data", {}), **sections)


def run_all(rank: int, size: int, store: Any, folder: Path, manifest: Any) -> dict[str, Any]:
    warm("cpu", threads=1)
    results: dict[str, Any] = {}

    def run(name: str, world: int, *, path: str = "", **options: Any) -> None:
        start = {key: options.pop(key) for key in ("generation", "start") if key in options}
        if rank < world:
            config = make_config(folder, **options)
            results[name] = train_small(rank, world, store, config, folder / (path or name), manifest=manifest, **start)

    run("one", 1, **EVALUATE)
    run("two", 2, stage=2, **EVALUATE, **EVERY_STEP)
    again = folder / "two" / "step-00000001-g0001"
    run("replayed", 2, path="two", stage=2, generation=2, start=again, **EVALUATE, **EVERY_STEP)
    for stage, world in ((2, 2), (3, 1)):
        if rank < world:
            job = EvaluationJob(
                config=make_config(folder, stage=stage),
                manifest=manifest,
                checkpoint=folder / "two" / f"step-{STEPS:08d}-g0001",
                split="validation",
                device="cpu",
                micro_batch=3,
                threads=1,
            )
            results[f"evaluated on {world}"] = job.work(rank, world, PrefixStore(f"evaluate{world}", store))
    changed = {"model": CUT_VIT, "data": CHANGED, "train": {"steps": CHANGED_STEPS}}
    run("changed", 1, **changed, **EVALUATE)
    run("changed_by_two", 2, stage=1, **changed, **EVERY_STEP)
    again = folder / "changed_by_two" / "step-00000002-g0001"
    run("changed_again", 2, path="changed_by_two", stage=1, generation=2, start=again, **changed, **EVERY_STEP)
    absent = {"model": RESNET | {"num_labels": CLASSES + 1}, "evaluate": {"every_steps": 1}}
    run("resnet", 2, stage=1, train={"steps": 2}, **absent)
    with pytest.raises(TrainingFailed) as caught:
        run("strict", 2, data={"max_holes": 1})
    results["strict"] = str(caught.value)
    return results


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each rank saw ([{case: result}]), in which folder, of which data."""
    folder = tmp_path_factory.mktemp("samples")
    write_pictures(folder / "pictures", broken=BROKEN)
    manifest = prepare(make_config(folder))
    return run_gang(2, run_all, folder, manifest), folder, manifest


def rows(seen, case) -> list[dict[str, Any]]:
    return seen[0][0][case][1].rows()


def test_classes_are_learned_and_every_sample_counts_but_the_holes(seen):
    outcome, _ = seen[0][0]["one"]
    assert (outcome.state, outcome.step) == (RunState.DONE, STEPS)
    told = rows(seen, "one")
    assert told[0]["loss"] == pytest.approx(math.log(CLASSES), rel=0.2)
    assert told[-1]["loss"] < told[0]["loss"]
    assert [row["samples"] for row in told] == [BATCH - (step in HOLE_STEPS) for step in range(STEPS)]
    assert [row.get("holes", 0) for row in told] == [int(step in HOLE_STEPS) for step in range(STEPS)]
    assert all("tokens" not in row for row in told)


def test_losses_and_ledger_do_not_depend_on_the_world(seen):
    for one, two in zip(rows(seen, "one"), rows(seen, "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert all(two[key] == one[key] for key in ("order_digest", "set_digest", "count", "samples"))


def test_reading_is_measured_in_every_step(seen):
    of_one = [news.metrics for news in seen[0][0]["one"][1].of(StepNews)]
    of_two = [news.metrics for news in seen[0][0]["two"][1].of(StepNews)]
    for one, two in zip(of_one, of_two, strict=True):
        assert one["read_bytes"] == two["read_bytes"] > BATCH * 100
        assert 0 < one["decode_s"] < 10
        assert one["data_wait_s"] >= 0
        assert "cache_hits" not in one, "local shards are not cached"


def test_holes_are_named_on_disk_before_their_step_commits(seen):
    results, folder, _ = seen
    news = results[0]["one"][1].news
    told = [one for one in news if isinstance(one, HolesNews)]
    assert [one.step for one in told] == HOLE_STEPS
    assert [left_out.sample for one in told for left_out in one.holes] == [
        "pictures/000.tar/p003",
        "pictures/002.tar/p007",
    ]
    for one in told:
        of_step = next(n for n, other in enumerate(news) if isinstance(other, StepNews) and other.step == one.step)
        assert news.index(one) < of_step
    by_rank = [holes(result["two"][1]) for result in results]
    assert all(by_rank), "each rank is to have one"
    on_disk = Skips.load(folder / "two-skips.jsonl")
    assert on_disk.holes == by_rank[0] | by_rank[1] == holes(results[0]["one"][1])


def holes(sink: RecordingSink) -> set[tuple[int, int]]:
    return {(news.step, left_out.position) for news in sink.of(HolesNews) for left_out in news.holes}


def test_a_replayed_hole_is_known_and_changes_no_number(seen):
    results, _, _ = seen
    measured = ("holes", "read_bytes")
    first, again = (
        [{key: value for key, value in row.items() if key not in measured} for row in rows(seen, case)]
        for case in ("two", "replayed")
    )
    assert again == first[1:]
    assert not any(holes(result["replayed"][1]) for result in results)
    assert all("holes" not in row for row in rows(seen, "replayed"))


def test_checkpoints_carry_the_skips_of_all_ranks_up_to_their_step(seen):
    _, folder, _ = seen
    positions = dict(Skips.load(folder / "two-skips.jsonl").holes)
    expected = [{"step": step, "position": positions[step]} for step in HOLE_STEPS]
    for step, known in ((1, expected[:1]), (2, expected[:1]), (3, expected), (6, expected)):
        assert list(open_checkpoint(folder / "two" / f"step-{step:08d}-g0001").facts.skips) == known


def test_the_ledger_is_what_config_manifest_and_skips_say(seen):
    _, folder, manifest = seen
    config, ledger = make_config(folder), rows(seen, "two")
    order, prepared = Order.of(config, manifest), Prepared(manifest, "train", packed=False)
    skips = Skips.load(folder / "two-skips.jsonl")
    assert compare_ledger(ledger, recompute(order, prepared, skips, range(STEPS))) is None
    forgotten = compare_ledger(ledger, recompute(order, prepared, Skips(), range(STEPS)))
    assert forgotten is not None
    assert forgotten.step == HOLE_STEPS[0]


def test_more_holes_than_allowed_end_the_run_on_all_ranks_in_one_step(seen):
    results, folder, _ = seen
    for result in results:
        assert "step 2: 2 samples do not decode, more than data.max_holes=1" in result["strict"]
        assert "skips.jsonl" in result["strict"]
    assert any("pictures/002.tar/p007" in result["strict"] for result in results)
    assert len(Skips.load(folder / "strict-skips.jsonl").holes) == 2


def test_validation_tells_loss_and_accuracy_of_every_sample(seen):
    results, _, manifest = seen
    (one,), (two,) = (results[0][case][1].of(EvaluationNews) for case in ("one", "two"))
    assert one.metrics["samples"] == manifest.kept("validation").sum()
    assert 0 <= one.metrics["accuracy"] <= 1
    assert one.metrics.keys() == {"loss", "accuracy", "f1", "roc_auc", "samples"}
    assert two.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=2e-5)


def test_an_evaluation_afterwards_gives_the_numbers_of_training(seen):
    """The very same on the same world, within rounding on another one and another stage."""
    results, _, _ = seen
    [news] = results[0]["two"][1].of(EvaluationNews)
    told = {name: value for name, value in news.metrics.items() if name != "loss"}
    for result in results:
        assert {name: result["evaluated on 2"].values[name] for name in news.metrics} == news.metrics
    alone = results[0]["evaluated on 1"].values
    assert {name: alone[name] for name in told} == told
    assert alone["loss"] == pytest.approx(news.metrics["loss"], rel=2e-5)
    assert alone.keys() == news.metrics.keys() | {"precision", "recall", "confusion_matrix"}


def test_changed_and_mixed_pictures_give_the_same_losses_in_any_slices_and_on_any_world(seen):
    plain, alone, by_two = (rows(seen, case) for case in ("one", "changed", "changed_by_two"))
    for untouched, one, two in zip(plain[:CHANGED_STEPS], alone, by_two, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-4)
        assert all(two[key] == one[key] == untouched[key] for key in ("order_digest", "set_digest", "count", "samples"))


def test_pictures_are_cut_in_validation_as_the_model_has_learned_them(seen):
    (told,) = seen[0][0]["changed"][1].of(EvaluationNews)
    assert math.isfinite(told.metrics["loss"]), "pictures of another size would have ended the run"


def test_a_resumed_run_changes_and_mixes_pictures_as_the_unbroken_one_did_bit_by_bit(seen):
    measured = ("holes", "read_bytes")
    whole, resumed = (
        [{key: value for key, value in row.items() if key not in measured} for row in rows(seen, case)]
        for case in ("changed_by_two", "changed_again")
    )
    assert resumed == whole[2:]
    assert len(resumed) == CHANGED_STEPS - 2


def test_a_class_without_samples_is_told_once_and_left_out(seen):
    _, sink = seen[0][0]["resnet"]
    evaluations = sink.of(EvaluationNews)
    assert all(math.isfinite(news.metrics["f1"]) and news.metrics["roc_auc"] > 0 for news in evaluations)
    assert len(evaluations) == 2
    assert [news.text for news in sink.of(NoteNews)] == [
        f"validation has no sample of class 0, {CLASSES}: means are over the other classes"
    ]


def test_models_with_batch_statistics_train_too(seen):
    outcome, sink = seen[0][0]["resnet"]
    assert outcome.state is RunState.DONE
    assert all(row["applied"] and math.isfinite(row["loss"]) for row in sink.rows())
