"""What `longhaul profile` is asked for, where it begins, and what it shows."""

import io
import random

import pytest
from rich.console import Console

from launch.profile import find_start, link_or_copy, parse_ranks, show_operators, show_profiles
from launch.screen import Screen
from orchestrator.checkpoint.layout import checkpoint_name
from orchestrator.core.errors import BadInput
from tests.fakes.saving import save_all, small_model, split


@pytest.mark.parametrize(("text", "ranks"), [("all", None), ("0", [0]), ("3, 1,3", [1, 3])])
def test_ranks_are_numbers_or_all(text, ranks):
    assert parse_ranks(text) == ranks


@pytest.mark.parametrize("text", ["", "a", "0-3", "-1"])
def test_other_ranks_are_refused(text):
    with pytest.raises(BadInput, match="must be numbers of ranks"):
        parse_ranks(text)


def test_a_copy_begins_at_the_last_checkpoint_from_which_the_step_is_reached(tmp_path):
    for step in (2, 4, 6):
        save_all(tmp_path / "checkpoints", split(small_model(), 1, random.Random(0)), step=step, generation=1)
    assert [getattr(find_start(tmp_path / "checkpoints", step), "step", None) for step in (1, 2, 5, 6)] == [
        None,
        2,
        4,
        6,
    ]
    (tmp_path / "checkpoints" / checkpoint_name(4, 1) / "manifest.json").write_text("{}")
    assert find_start(tmp_path / "checkpoints", 5).step == 2, "a damaged one is passed over"


def test_operators_are_shown_by_their_share_without_being_cut():
    console = Console(file=io.StringIO(), width=80)
    name = "void kernel[with brackets]<float, " + "x" * 100 + ">"
    operators = [{"name": name, "calls": 1200, "self_s": 0.3}, {"name": "aten::mm", "calls": 1, "self_s": 0.1}]
    show_operators("rank-00000", operators, Screen(console))
    shown = console.file.getvalue()
    assert "1,200  300.0  75.0%" in shown
    assert shown.count("x") == 100


def test_a_rank_that_is_not_there_is_said(tmp_path):
    with pytest.raises(BadInput, match="the run has no rank 7"):
        show_profiles(tmp_path, [7], Screen(Console(file=io.StringIO())))


def test_files_of_a_checkpoint_are_shared_with_the_copy(tmp_path):
    (tmp_path / "file").write_text("weights")
    link_or_copy(str(tmp_path / "file"), str(tmp_path / "again"))
    (tmp_path / "file").unlink()
    assert (tmp_path / "again").read_text() == "weights"
