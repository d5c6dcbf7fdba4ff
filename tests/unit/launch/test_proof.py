"""`longhaul verify` of runs that fed pictures as they are, from real shards through the real read path."""

import io
import json
import os
import re
import tarfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from launch.proof import ledger_rows, verify
from launch.screen import Screen
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.core.errors import DataError, NotVerified
from orchestrator.core.news import KeysNews
from orchestrator.core.words import World
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.feeding.sampled import SampledBatches
from orchestrator.data.ordering.ledger import Sums
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from orchestrator.prepare.run import prepare
from orchestrator.storage.lines import LineFile
from orchestrator.tracking.keys import KeyParts
from orchestrator.tracking.rundir import RunDir
from tests.fakes.plain_auditor import audit_step
from tests.fakes.shards import write_tar

STEPS, BATCH, RANKS = 12, 7, 3  # 84 positions: one epoch of 54 kept or so, and a part of the next
VOIDED, HOLE = 3, (5, 37)
SKIPS = Skips(frozenset({VOIDED}), frozenset({HOLE}))


FIELDS = {"image": {"members": ["png", "jpg"]}, "label": {"members": ["cls"]}}


def write_shards(folder: Path) -> Path:
    """Ten shards of six small pictures with a label."""
    rng = np.random.default_rng(0)
    for shard in range(10):
        members = []
        for place in range(6):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(file, "PNG")
            members += [(f"p{place}.png", file.getvalue()), (f"p{place}.cls", str(place % 3).encode())]
        write_tar(folder / f"{shard}.tar", members)
    return folder


def make_config(root: Path) -> RunConfig:
    """Of the shards in root/data; the work place is root/work."""
    data = {"train": [{"path": str(root / "data")}], "work": str(root / "work"), "segment_shards": 3, "fields": FIELDS}
    data |= {"split": {"validation": 0.1}, "run_samples": 2, "window_samples": 20, "lanes": 2}
    sections = {
        "name": "test",
        "data": data,
        "task": {"name": "image_classification"},
        "model": {"transformers": {"model_type": "resnet"}},
        "train": {"steps": STEPS, "global_batch": BATCH},
    }
    return RunConfig.model_validate(sections)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Config and manifest."""
    root = tmp_path_factory.mktemp("proof")
    write_shards(root / "data")
    config = make_config(root)
    return config, prepare(config)


@pytest.fixture
def run(tmp_path, data):
    """A run that fed what it should."""
    return write_run(tmp_path / "run", *data)


def write_run(path: Path, config, manifest, *, keys: bool = True, reading=None, order=None) -> RunDir:
    """The run directory of a run that three ranks did, whose reader was asked for what `reading` makes of samples."""
    batches = open_batches(config, manifest, order or Order.of(config, manifest), "train")
    if reading is not None:
        batches = with_reading(batches, reading)
    run_dir = RunDir(path)
    path.mkdir()
    run_dir.checkpoints.mkdir()
    run_dir.config.write_text(dump_yaml(config))
    manifest.write(run_dir.manifest)
    with closing(batches), closing(KeyParts(path, spans_per_part=20)) as parts:
        write_lines(path / "ledger.jsonl", [feed_step(batches, step, parts if keys else None) for step in range(STEPS)])
    losses = [{"step": step, "generation": 1, "loss": 1 / (step + 1)} for step in range(STEPS)]
    write_lines(path / "metrics.jsonl", losses)
    write_lines(run_dir.skips, [{"step": VOIDED, "voided": True}, {"step": HOLE[0], "position": HOLE[1]}])
    return run_dir


def feed_step(batches, step: int, parts: KeyParts | None, skips: Skips = SKIPS) -> dict[str, str | int]:
    """The step's row of the ledger."""
    made = [batches.make(step, World.flat(rank, RANKS), skips) for rank in range(RANKS)]
    if parts is not None:
        parts.add(KeysNews(step=step, generation=1, slots=list(one.slots), spans=one.spans) for one in made)
    sums, count = sum((one.sums for one in made), Sums()), sum(one.count for one in made)
    row = {"step": step, "generation": 1, "order_digest": sums.order_hex, "set_digest": sums.set_hex}
    return {**row, "count": count}


def with_reading(batches: SampledBatches, change) -> SampledBatches:
    """A maker whose reader is asked for what `change` makes of (ordinals, places)."""

    class ChangedReader:
        def __init__(self, reader):
            self.fields, self._reader = reader.fields, reader

        def read_pieces(self, ordinal, place):
            return self._reader.read_pieces(*change(ordinal, place))

    batches._reader = ChangedReader(batches._reader)
    return batches


def write_lines(path: Path, rows) -> None:
    with LineFile(path, head={"format": 1}) as file:
        file.append(rows)


def change_rows(run_dir: RunDir, change) -> None:
    """Rewrite ledger.jsonl."""
    path = run_dir.path / "ledger.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    path.unlink()
    write_lines(path, change(rows))


def check(run_dir: RunDir, against: RunDir | None = None) -> str:
    """What verify says of a run that is right."""
    file = io.StringIO()
    verify(run_dir, against, Screen(Console(file=file, width=80)))
    return file.getvalue()


def problem(run_dir: RunDir, against: RunDir | None = None) -> str:
    with pytest.raises(NotVerified) as found:
        check(run_dir, against)
    return found.value.message


def fed_by_step(config, manifest):
    """(position, ordinal, place) of what each step feeds, and where the shards lie."""
    order = Order.of(config, manifest)
    steps = []
    for step in range(STEPS):
        slots = order.slots(step)
        skipped = SKIPS.of(step, slots.position)
        held = [order.spans(slots, i)[0] for i in range(BATCH)]
        steps.append([(int(slots.position[i]), *held[i][:2]) for i in range(BATCH) if not skipped[i]])
    return steps, [Path(manifest.shard(ordinal).url) for ordinal in range(manifest.num_shards)]


def test_a_run_that_fed_what_it_should_is_proven_with_its_epoch(run, data):
    kept = int(data[1].kept("train").sum())
    assert kept < STEPS * BATCH
    said = check(run)
    assert f"ledger: {STEPS} steps fed what the run's definition says" in said
    assert f"epoch 0 of data: {kept} samples are all that were kept, each once" in said


def test_an_independent_reader_confirms_every_byte(run, data):
    steps, shards = fed_by_step(*data)
    ledger = read_rows(run)
    for step, fed in enumerate(steps):
        expected = audit_step(fed, shards, [["png", "jpg"], ["cls"]])
        assert {name: ledger[step][name] for name in expected} == expected
    assert [len(fed) for fed in steps] == [BATCH - (n == HOLE[0]) - BATCH * (n == VOIDED) for n in range(STEPS)]


def test_the_keys_that_were_fed_are_printed_in_batch_order(run, data):
    steps, _ = fed_by_step(*data)
    rows = list(ledger_rows(run, range(1, 3)))
    assert [row["step"] for row in rows] == [1, 2]
    names = [[f"{data[1].shard_name(ordinal)}/p{place}" for _, ordinal, place in steps[n]] for n in (1, 2)]
    assert [row["keys"] for row in rows] == [[[name, 0, 0] for name in step] for step in names]
    (void,) = ledger_rows(run, range(VOIDED, VOIDED + 1))
    assert void["count"] == 0


def test_feeding_one_wrong_sample_is_found_and_named(tmp_path, data):
    (wrong, instead), where = pick_two(data, step=8)
    run_dir = write_run(tmp_path / "run", *data, reading=lambda o, p: replace_sample(o, p, {wrong: instead}))
    found = problem(run_dir)
    assert re.search(rf"ledger: step {where}: order_digest must be \w+, the ledger says \w+", found)
    assert f"step {where}: its keys are the right ones: the bytes of a sample differ" in found


class SwappingOrder:
    """The order, with two neighbours of one step exchanged."""

    def __init__(self, order, at):
        self._order, self._at = order, at

    def __getattr__(self, name):
        return getattr(self._order, name)

    def slots(self, step):
        slots = self._order.slots(step)
        if step != self._at:
            return slots
        swapped = slots.take(np.array([1, 0, *range(2, slots.position.size)]))
        return replace(swapped, position=slots.position)


def test_a_swapped_pair_is_found_although_the_set_is_the_same(tmp_path, run, data):
    swapped = write_run(tmp_path / "swapped", *data, order=SwappingOrder(Order.of(*data), 8))
    assert read_rows(swapped)[8]["set_digest"] == read_rows(run)[8]["set_digest"]
    found = problem(swapped)
    assert "ledger: step 8: order_digest must be" in found
    steps, _ = fed_by_step(*data)
    (position, *must), (_, *is_) = sorted(steps[8][:2])
    must, is_ = (f"{data[1].shard_name(ordinal)}/p{place}" for ordinal, place in (must, is_))
    assert f"step 8: position {position} must be {must}, it is {is_}" in found


def test_a_byte_that_differs_is_found(tmp_path, run, data):
    """The run against the manifest of a copy in which one bit of one picture is another."""
    config, manifest = data
    copy = write_shards(tmp_path / "copy" / "data")
    steps, shards = fed_by_step(config, manifest)
    _, ordinal, place = steps[4][2]
    flip_bit(copy / shards[ordinal].name, place)
    changed = prepare(make_config(tmp_path / "copy"))
    assert changed.contents() != manifest.contents()
    run.manifest.unlink()
    changed.write(run.manifest)
    assert "ledger: step 4: order_digest must be" in problem(run)


def test_a_byte_that_has_changed_since_is_never_fed(tmp_path):
    config = make_config(tmp_path)
    write_shards(tmp_path / "data")
    manifest = prepare(config)
    steps, shards = fed_by_step(config, manifest)
    _, ordinal, place = steps[4][2]
    flip_bit(shards[ordinal], place)
    key = manifest.keys(ordinal, np.array([place]))[0]
    with pytest.raises(DataError, match=key):
        write_run(tmp_path / "run", config, manifest)


def test_a_missing_row_is_found(run):
    change_rows(run, lambda rows: rows[:6] + rows[7:])
    found = problem(run)
    assert "ledger.jsonl has no row of step 6" in found
    assert "metrics.jsonl tells of step 6, ledger.jsonl does not" in found


def test_a_last_row_that_is_missing_is_found(run):
    change_rows(run, lambda rows: rows[:-1])
    assert problem(run) == f"metrics.jsonl tells of step {STEPS - 1}, ledger.jsonl does not"


def test_only_the_last_row_of_a_repeated_step_counts(run):
    wrong = {**read_rows(run)[5], "count": 1}
    change_rows(run, lambda rows: [wrong, *rows])
    check(run)
    change_rows(run, lambda rows: [*rows, {**wrong, "generation": 2}])
    assert "ledger: step 5: count must be" in problem(run)


def test_a_skip_that_was_forgotten_is_found(run):
    run.skips.unlink()
    assert f"ledger: step {VOIDED}: " in problem(run)


def test_without_keys_it_is_said_how_to_have_the_position_named(tmp_path, data):
    run_dir = write_run(tmp_path / "run", *data, keys=False)
    change_rows(run_dir, lambda rows: [{**row, "set_digest": "0" * 32} if row["step"] == 2 else row for row in rows])
    found = problem(run_dir)
    assert "ledger: step 2: set_digest must be" in found
    assert "`data.ledger: keys` would have told at which position" in found


def test_two_runs_are_compared_by_samples_and_losses(tmp_path, run, data):
    same = write_run(tmp_path / "same", *data)
    assert f"against same: {STEPS} common steps; largest difference of losses 0, at step 0" in check(run, same)
    other = write_run(tmp_path / "other", data[0].model_copy(update={"seed": 99}), data[1])
    found = problem(run, other)
    assert "step 0: the two runs fed other samples" in found
    assert re.search(r"step 0: position 0 was data/\d+\.tar/p\d, and data/\d+\.tar/p\d in other", found)


def test_a_batch_that_one_run_has_left_out_is_told_and_not_held_against_it(tmp_path, run, data):
    """The other has trained on it: another loss, another row of the ledger."""
    other = write_run(tmp_path / "other", *data)
    with closing(open_batches(data[0], data[1], Order.of(*data), "train")) as batches:
        fed = feed_step(batches, VOIDED, None, Skips(holes=SKIPS.holes))
    change_rows(other, lambda rows: [fed if row["step"] == VOIDED else row for row in rows])
    change_metrics(other, {VOIDED: 77.0})
    assert f"step {VOIDED}: the two runs fed other samples" in problem(run, other)
    other.skips.unlink()
    write_lines(other.skips, [{"step": HOLE[0], "position": HOLE[1]}])
    told = check(run, other)
    assert f"left out of one of the two for their numbers: step {VOIDED}\n" in told
    assert "largest difference of losses 0" in told


def change_metrics(run_dir: RunDir, losses: dict[int, float]) -> None:
    path = run_dir.path / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    path.unlink()
    write_lines(path, [row | {"loss": losses.get(row["step"], row["loss"])} for row in rows])


def read_rows(run_dir: RunDir):
    return [json.loads(line) for line in (run_dir.path / "ledger.jsonl").read_text().splitlines()[1:]]


def pick_two(data, step: int):
    """Two samples that one rank feeds at a step and nobody at another one; and the step."""
    steps, _ = fed_by_step(*data)
    pairs = [tuple(sample[1:] for sample in fed[:2]) for fed in steps]
    return pairs[step], next(n for n, fed in enumerate(steps) if {one[1:] for one in fed} & set(pairs[step]))


def replace_sample(ordinals, places, changes):
    pairs = [changes.get(pair, pair) for pair in zip(ordinals.tolist(), places.tolist(), strict=True)]
    return tuple(np.array(column, np.int64) for column in zip(*pairs, strict=True)) if pairs else (ordinals, places)


def flip_bit(shard: Path, place: int) -> None:
    """Of one picture, as a disk does: neither size nor time of the file tells."""
    stat = shard.stat()
    with tarfile.open(shard) as tar:
        at = tar.getmembers()[2 * place].offset_data + 30
    with shard.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
