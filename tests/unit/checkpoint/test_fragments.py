"""Coverage: all ranks together hold every element of every state exactly once."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.checkpoint.fragments import MASTER, VALUE, Piece, TensorInfo, check_coverage
from orchestrator.core.errors import CheckpointDamaged

INFOS = {
    "weight": TensorInfo((3, 4), "bfloat16", "trainable"),
    "mask": TensorInfo((5,), "bool", "buffer"),
    "nothing": TensorInfo((0, 7), "float32", "frozen"),
}
WHOLE = [Piece("weight", MASTER, 0, 12), Piece("weight", "exp_avg", 0, 12), Piece("mask", VALUE, 0, 5)]


@given(st.lists(st.integers(0, 12), max_size=4).map(sorted), st.randoms())
def test_any_cutting_in_any_order_is_whole(cuts: list[int], random: object) -> None:
    bounds = [0, *cuts, 12]
    pieces = [Piece("weight", MASTER, first, last - first) for first, last in pairwise(bounds)]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    check_coverage(INFOS, [*pieces, *WHOLE[1:]])


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        (WHOLE[1:], "tensor weight: no fragment of state 'fp32'"),
        ([Piece("weight", MASTER, 0, 5), Piece("weight", MASTER, 6, 6), *WHOLE[1:]], "elements 5 to 6 are missing"),
        ([Piece("weight", MASTER, 0, 7), Piece("weight", MASTER, 6, 6), *WHOLE[1:]], "element 6 is there twice"),
        ([Piece("weight", MASTER, 0, 11), *WHOLE[1:]], "reach element 11 of 12"),
        ([*WHOLE, Piece("weight", "exp_avg_sq", 0, 3)], "state exp_avg_sq: fragments reach element 3 of 12"),
        ([*WHOLE, Piece("other", VALUE, 0, 1)], "tensor other: a fragment belongs to no tensor"),
    ],
)
def test_a_gap_a_repeat_and_a_stranger_are_named(pieces: list[Piece], problem: str) -> None:
    with pytest.raises(CheckpointDamaged, match=problem):
        check_coverage(INFOS, pieces)
