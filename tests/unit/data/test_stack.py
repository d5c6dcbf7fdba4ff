import numpy as np
import pytest

from orchestrator.core.errors import DataError
from orchestrator.data.decoding.stack import stack_values


def stack(*values):
    return stack_values("image", values, "shard/{}".format)


def test_arrays_become_one_array_of_their_kind():
    stacked = stack(np.zeros((2, 3), np.uint8), np.ones((2, 3), np.uint8))
    assert (stacked.shape, stacked.dtype) == ((2, 2, 3), np.uint8)
    assert stacked.sum(axis=(1, 2)).tolist() == [0, 6]


@pytest.mark.parametrize(("values", "kind"), [([1, 2], "i8"), ([0.5, 2.0], "f8"), ([True, False], "?")])
def test_numbers_become_one_row(values, kind):
    stacked = stack(*values)
    assert stacked.dtype == kind
    assert stacked.tolist() == values


@pytest.mark.parametrize("values", [["a", "bc"], [{"a": 1}, {}], [[1, 2], [3, 4]], [b"x", b"y"], [None, 1]])
def test_anything_else_stays_as_it_is(values):
    stacked = stack(*values)
    assert (stacked.shape, stacked.dtype) == ((2,), object)
    assert stacked.tolist() == values


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((4, 5))], "float64 [4, 4] and shard/2 is float64 [4, 5]"),
        ([np.zeros(2), np.zeros(2, np.float32)], "shard/0 is float64 [2] and shard/1 is float32 [2]"),
        ([1, 2.0], "shard/0 is one int64 and shard/1 is one float64"),
    ],
)
def test_values_that_are_not_alike_are_named_with_the_way_out(values, says):
    with pytest.raises(DataError, match="add a resize transform") as caught:
        stack(*values)
    assert says in caught.value.message
    assert caught.value.where == "data.fields.image"
