"""Rows of a table as numbers, and why some cannot be."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from orchestrator.config.data import TableSection
from orchestrator.data.decoding.fields import Decoding, TransformFailed
from orchestrator.data.decoding.table import BadRow, Figures, RowReader
from tests.fakes.tables import TABLE, make_row, table_config

READER = RowReader(TableSection.model_validate(TABLE), 2, Figures())
NUMBERS = TableSection.model_validate({"columns": ["a"], "target": "b"})


def test_categories_spread_over_columns_and_labels_become_classes():
    read = READER.read({"age": 3, "size": 0.5, "colour": "green", "kind": "dog"})
    assert read["features"].tolist() == [3.0, 0.5, 0.0, 1.0]
    assert read["features"].dtype == np.float32
    assert read["target"] == 1
    assert read["target"].dtype == np.int64


def test_true_and_false_are_numbers_and_columns_that_are_not_named_do_not_matter():
    read = READER.read(make_row(1) | {"age": True, "name": "Rex", "chip": None})
    assert read["features"].tolist() == [1.0, 0.5, 1.0, 0.0]


def test_numbers_are_scaled_and_a_column_that_never_varies_becomes_zero():
    reader = RowReader(READER.table, 2, Figures(scales={"age": [10.0, 4.0], "size": [2.0, 0.0]}))
    assert reader.read(make_row(1) | {"age": 16, "size": 2.0})["features"].tolist()[:2] == [1.5, 0.0]
    assert reader.read(make_row(1) | {"size": 7.0})["features"].tolist()[1] == 0.0


def test_values_are_filled_in_and_clipped_in_the_order_given():
    repairs = [
        {"column": "age", "fill": 50.0},
        {"column": "age", "low": 0.0, "high": 40.0},
        {"column": "size", "low": 1.0},
        {"column": "colour", "fill": "green"},
        {"column": "kind", "fill": "dog"},
    ]
    reader = RowReader(READER.table, 2, Figures(repairs=repairs))
    read = reader.read({"age": math.nan, "size": -3, "colour": "", "kind": None})
    assert (read["features"].tolist(), read["target"]) == ([40.0, 1.0, 0.0, 1.0], 1)
    assert reader.read(make_row(2))["features"].tolist() == [2.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": None}, r"has no value in column 'age' \(null\): `missing` of prepare.clean"),
        ({"age": math.nan}, r"has no value in column 'age' \(NaN\)"),
        ({"colour": ""}, "has no value in column 'colour'"),
        ({"kind": None}, "has no value in column 'kind'"),
        ({"age": "seven"}, "age is seven, which is no number"),
        ({"age": [7]}, r"age is \[7\], which is no number"),
        ({"age": math.inf}, "age is Infinity, which is too large a number"),
        ({"age": 1e300}, "too large a number"),
        ({"age": 10**400}, "too large a number"),
        ({"colour": "gren"}, "colour is gren, which is none of its values in data.table.columns; did you mean 'green'"),
        ({"colour": 1}, "colour is 1, which is none of its values"),
        ({"kind": "cow"}, "kind is cow, which is none of its values in data.table.labels"),
    ],
)
def test_a_bad_value_is_named_with_its_column(change, said):
    with pytest.raises(BadRow, match=said):
        READER.read(make_row(1) | change)


def test_a_column_that_is_not_there_is_named_with_the_nearest_one():
    row = {"Age": 1, **{name: value for name, value in make_row(1).items() if name != "age"}}
    with pytest.raises(BadRow, match="has no column 'age'; did you mean 'Age'"):
        READER.read(row)


def test_a_row_must_be_an_object():
    with pytest.raises(BadRow, match="holds a list, not an object"):
        READER.read([1, 2])


@pytest.mark.parametrize("value", [-1, 3, 1.5, math.inf])
def test_a_class_given_as_a_number_must_be_one_of_them(value):
    reader = RowReader(NUMBERS, 3, Figures())
    assert reader.read({"a": 1, "b": 2.0})["target"] == 2
    with pytest.raises(BadRow, match=r"b is .*, and classes are whole numbers from 0 to 2"):
        reader.read({"a": 1, "b": value})


def test_a_target_that_is_a_number_is_not_scaled():
    target = RowReader(NUMBERS, None, Figures(scales={"a": [1.0, 2.0]})).read({"a": 1, "b": 152.25})["target"]
    assert (target, target.dtype) == (152.25, np.float32)


def test_decoding_makes_features_of_rows_and_names_the_row_that_cannot_be():
    decoding = Decoding.of(table_config(Path("data")).data, READER)
    decoding = pickle.loads(pickle.dumps(decoding))  # as worker processes get it
    good = [json.dumps(make_row(n)).encode() for n in (1, 3)]
    columns, failures = decoding.decode_columns(
        {"row": (["json"] * 3, [good[0], b"{", good[1]])}, np.zeros(3, np.uint64)
    )
    assert list(failures) == [1]
    assert columns["target"] == [0, None, 1]
    assert columns["features"][2].tolist() == [3.0, 1.5, 0.0, 1.0]
    bad = json.dumps(make_row(1) | {"age": "?"}).encode()
    with pytest.raises(TransformFailed, match="age is") as caught:
        decoding.decode_columns({"row": (["json"] * 2, [good[0], bad])}, np.zeros(2, np.uint64))
    assert caught.value.row == 1
