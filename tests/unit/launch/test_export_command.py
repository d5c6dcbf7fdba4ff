"""`longhaul export`, but for the model itself: what is refused, and that a folder is made whole or not at all."""

from pathlib import Path

import pytest

from launch.export import ExportWish, export, filling
from launch.screen import Screen
from orchestrator.core.errors import BadInput, DataError
from orchestrator.tracking.rundir import RunDir


def test_an_unknown_type_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--dtype int8: is none of fp32, bf16, fp16"):
        export(RunDir(tmp_path), ExportWish(dtype="int8"), Screen(), as_json=False)


def test_a_folder_is_there_once_it_is_full(tmp_path: Path) -> None:
    output = tmp_path / "models" / "mine"
    with filling(output) as part:
        (part / "one").write_text("1")
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["one"]
    assert [path.name for path in output.parent.iterdir()] == ["mine"]


def test_a_disk_that_is_full_is_told_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"mine: cannot be written: No space left(.|\n)*--output"),
        filling(tmp_path / "mine"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
