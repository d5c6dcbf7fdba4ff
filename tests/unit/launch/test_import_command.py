"""`longhaul import` as it is typed: what its options become, and what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launch.cli import app
from orchestrator.core.errors import BadInput
from tests.fakes.imports import read_members, write_rows

ROWS = [{"id": "one", "picture": "p1", "rest": 1}, {"id": "two", "picture": "p2", "rest": 2}, {"id": "bad"}]
OPTIONS = ["--key", "id", "--member", "bin=picture", "--drop-rest", "--on-bad", "skip", "--workers", "1"]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["import", *map(str, arguments)], env={"COLUMNS": "80"}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_options_decide_what_is_made_and_json_counts_it(tmp_path: Path) -> None:
    source, folder = write_rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "out"
    told: dict[str, Any] = json.loads(run(source, folder, *OPTIONS, "--name", "pictures", "--json"))
    assert read_members(folder) == {"one.bin": b"p1", "two.bin": b"p2"}
    assert [path.name for path in folder.glob("*.tar")] == ["pictures-000000.tar"]
    assert (told["shards"], told["samples"], told["folder"]) == (1, 2, str(folder))
    assert [left["count"] for left in told["left_out"].values()] == [1]


def test_people_are_told_what_was_left_out_and_how_to_go_on(tmp_path: Path) -> None:
    source, folder = write_rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "out"
    said = "".join(run(source, folder, *OPTIONS).split())
    assert "leftout1x" in said
    assert f"data.train[].path:{folder}" in said


@pytest.mark.parametrize(("option", "value"), [("--from", "csv"), ("--on-bad", "ignore"), ("--member", "jpg")])
def test_an_option_that_makes_no_sense_is_named(tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(BadInput) as caught:
        run(write_rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "out", option, value)
    assert caught.value.where == f"{option} {value}"
    assert not (tmp_path / "out").exists()
