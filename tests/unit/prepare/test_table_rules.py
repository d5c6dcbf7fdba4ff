"""Tables from shards to batches: bad rows found when preparing, figures of the first segment, classes counted."""

import json

import numpy as np
import pytest

from orchestrator.core.errors import DataError
from orchestrator.core.words import World
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from orchestrator.prepare.run import prepare
from orchestrator.train.tasks.losses import find_class_weights
from tests.fakes.pictures import draw_picture, write_pictures
from tests.fakes.shards import run_backwards, sample_config, write_tar
from tests.fakes.tables import make_row, table_config, write_rows


def feed(config, manifest, world=None):
    batches = open_batches(config, manifest, Order.of(config, manifest), "train")
    made = batches.make(0, world or World.flat(0, 1), Skips())
    batches.close()
    return made


def unscaled(root, rows, **sections):
    write_rows(root / "data" / "a.tar", rows)
    return table_config(root, {"scale": "none"}, **sections)


def test_rows_are_fed_scaled_by_the_training_rows_of_the_first_segment(tmp_path):
    write_rows(tmp_path / "data" / "a.tar", [make_row(n) for n in range(20)])
    write_rows(tmp_path / "data" / "b.tar", [make_row(n) for n in range(100, 120)])
    config = table_config(tmp_path, data={"segment_shards": 1, "split": {"validation": 0.3}}, train={"global_batch": 2})
    manifest = prepare(config, run_backwards)
    first, name = manifest.places(0, "train"), manifest.shard_name(0)
    assert 0 < len(first) < 20
    ages = np.array([n + (100 if "b.tar" in name else 0) for n in first], np.float64)
    scales = manifest.statistics()["scales"]
    assert scales["age"] == pytest.approx([ages.mean(), ages.std()])
    assert set(scales) == {"age", "size"}
    batch = feed(config, manifest)
    whole = sorted((value - ages.mean()) / ages.std() for value in ages)
    assert all(any(value == pytest.approx(one, abs=1e-5) for one in whole) for value in batch.fields["features"][:, 0])


def test_missing_values_are_filled_in_by_the_rules_of_prepare(tmp_path):
    rows = [{"age": None if n == 2 else n, **{k: v for k, v in make_row(n).items() if k != "age"}} for n in range(4)]
    clean = [
        {"name": "missing", "args": {"columns": ["age"], "rule": "mean"}},
        {"name": "outliers", "args": {"columns": ["size"], "rule": "range", "high": 1.0, "then": "clip"}},
    ]
    config = unscaled(tmp_path, rows, prepare={"clean": clean})
    features = feed(config, prepare(config)).fields["features"]
    assert sorted(features[:, 0].tolist()) == pytest.approx([0, 1, 4 / 3, 3])
    assert sorted(features[:, 1].tolist()) == [0.0, 0.5, 1.0, 1.0]


def test_a_constant_is_filled_in_without_statistics_of_any_column(tmp_path):
    clean = [{"name": "missing", "args": {"columns": ["colour"], "rule": "constant", "value": "red"}}]
    config = unscaled(tmp_path, [make_row(n) | {"colour": None} for n in range(4)], prepare={"clean": clean})
    assert feed(config, prepare(config)).fields["features"][:, 2].tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (make_row(1) | {"age": None}, "r001: has no value in column 'age' (null): `missing` of prepare.clean"),
        ({"size": 1, "colour": "red", "kind": "cat"}, "r001: has no column 'age'"),
        (make_row(1) | {"size": "big"}, "r001: size is big, which is no number"),
        (make_row(1) | {"kind": "cow"}, "r001: kind is cow, which is none of its values in data.table.labels"),
        ([1], "r001: its json member holds a list"),
    ],
)
def test_bad_rows_stop_the_work_and_are_named(tmp_path, row, said):
    with pytest.raises(DataError) as caught:
        prepare(unscaled(tmp_path, [make_row(0), row, make_row(3)]))
    assert said in str(caught.value)
    assert "data/a.tar" in str(caught.value)
    assert "data.table" in caught.value.remedy


def test_bad_rows_are_left_out_and_counted_where_the_config_says_so(tmp_path):
    rows = [make_row(0), make_row(1) | {"age": "?"}, make_row(2), make_row(3), make_row(4)]
    config = unscaled(tmp_path, rows, data={"on_bad": "skip"})
    manifest = prepare(config)
    assert manifest.places(0, "train").tolist() == [0, 2, 3, 4]
    (reason,) = manifest.drops(0)["reason"].to_pylist()
    assert "age is" in reason
    assert feed(config, manifest).count == 4


def test_rows_that_cleaning_drops_need_not_be_good(tmp_path):
    rows = [make_row(n) for n in range(4)] + [make_row(9) | {"age": None}]
    clean = [{"name": "missing", "args": {"columns": ["age"], "rule": "drop"}}]
    assert prepare(unscaled(tmp_path, rows, prepare={"clean": clean})).places(0, "train").tolist() == [0, 1, 2, 3]


def test_bad_rows_are_found_where_samples_are_compared_too(tmp_path):
    rows = [make_row(0), make_row(0), make_row(1) | {"age": "?"}, *(make_row(n) for n in range(2, 5))]
    config = unscaled(tmp_path, rows, data={"on_bad": "skip"}, prepare={"dedup": {"exact": True}})
    assert prepare(config).places(0, "train").tolist() == [0, 3, 4, 5]


def test_classes_are_counted_in_the_training_split_and_balance_the_loss(tmp_path):
    rows = [make_row(n) for n in range(40)]
    config = unscaled(
        tmp_path,
        rows,
        data={"split": {"test": 0.3}},
        task={"name": "tabular_classification", "classes": 2, "loss": {"class_weights": "balanced"}},
    )
    manifest = prepare(config, run_backwards)
    kinds = [rows[place]["kind"] for place in manifest.places(0, "train")]
    cats, dogs = kinds.count("cat"), kinds.count("dog")
    assert manifest.class_counts(2) == [cats, dogs]
    assert find_class_weights(config, manifest).tolist() == pytest.approx(
        [len(kinds) / 2 / cats, len(kinds) / 2 / dogs]
    )


def test_a_class_without_a_sample_cannot_be_balanced(tmp_path):
    rows = [make_row(n) | {"kind": "cat"} for n in range(4)]
    task = {"name": "tabular_classification", "classes": 2, "loss": {"class_weights": "balanced"}}
    config = unscaled(tmp_path, rows, task=task)
    with pytest.raises(DataError, match="class 1 has no sample"):
        find_class_weights(config, prepare(config))


def balanced_pictures(root, classes=3):
    fields = {"image": {"members": ["png"]}, "label": {"members": ["json"]}}
    data = {"fields": fields, "transforms": [{"name": "pick", "field": "label", "args": {"path": "a.kind"}}]}
    task = {"name": "image_classification", "classes": classes, "loss": {"class_weights": "balanced"}}
    return sample_config(root, fields, data, task=task)


def write_labelled(root, labels):
    members = [
        member
        for n, label in enumerate(labels)
        for member in ((f"p{n}.json", json.dumps({"a": {"kind": label}}).encode()), (f"p{n}.png", draw_picture(n)))
    ]
    write_tar(root / "data" / "a.tar", members)


def test_classes_of_fields_are_counted_as_their_transforms_make_them(tmp_path):
    write_labelled(tmp_path, [0, 2, 2, 1, 2])
    assert prepare(balanced_pictures(tmp_path)).class_counts(3) == [1, 1, 3]


def test_a_label_out_of_range_is_named_when_classes_are_counted(tmp_path):
    write_labelled(tmp_path, [0, 2, 3])
    with pytest.raises(DataError, match="the label of sample p2 is 3, and classes are whole numbers from 0 to 2"):
        prepare(balanced_pictures(tmp_path))


def test_data_without_a_table_is_prepared_as_before(tmp_path):
    """Chains of earlier versions stay: nothing about tables or classes is in their rules."""
    write_pictures(tmp_path / "data", 1)
    fields = {"image": {"members": ["png"]}, "label": {"members": ["cls"]}}
    manifest = prepare(sample_config(tmp_path, fields))
    assert manifest.segments[0].rules == "c7af790fe489c08970c1c7049923e64f"
    assert not [name for name in manifest.segments[0].totals if name.startswith("class")]
