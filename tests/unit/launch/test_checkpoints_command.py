"""longhaul checkpoint list | verify | copy: of runs, folders and stores, for people and for programs."""

import io
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from launch.checkpoints import Kept, copy_checkpoints, find_kept, show_checkpoints, verify_checkpoints
from launch.screen import Screen
from launch.shelves import check_checkpoints_moved, check_shelf_is_free
from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.shelf import LocalShelf, open_shelf
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode
from orchestrator.storage.stores import StoreSettings
from orchestrator.tracking.rundir import RunDir
from tests.fakes.s3_server import S3Server
from tests.fakes.saving import FACTS, save_all, small_model, split

CONFIG = Path(__file__).parents[3] / "configs" / "tiny.yaml"


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of steps 1, 2 and 3; 1 is best, and 3 damaged where only reading shows it."""
    folder = tmp_path / "kept"
    for step, loss in ((1, 0.5), (2, 0.75), (3, 1.0)):
        facts = replace(FACTS, validation_loss=loss)
        save_all(folder, split(small_model(), 2, random.Random(0)), step, facts=facts)
    file = folder / "step-00000003-g0002" / "rank-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    return folder


@pytest.fixture
def screen() -> Screen:
    return Screen(Console(file=io.StringIO(), width=80))


def shown(screen: Screen) -> str:
    return screen.console.file.getvalue()


def test_a_list_names_all_with_what_was_validated(folder, screen, capsys) -> None:
    kept = find_kept(str(folder), Path("runs"))
    assert show_checkpoints(kept, screen, as_json=False) is ExitCode.DONE
    assert [line.split()[:2] for line in shown(screen).splitlines()[1:]] == [
        [str(step), f"step-0000000{step}-g0002"] for step in (1, 2, 3)
    ]
    assert "loss 0.75" in shown(screen)
    show_checkpoints(kept, screen, as_json=True)
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [row["metrics"] for row in rows] == [{"loss": 0.5}, {"loss": 0.75}, {"loss": 1.0}]
    assert all(row["size_bytes"] > 1000 and not row["problem"] for row in rows)
    (folder / "step-00000002-g0002" / "rank-00000.json").unlink()
    show_checkpoints(kept, screen, as_json=False)
    assert "damaged" in shown(screen)


def test_a_folder_without_any_says_so(tmp_path, screen) -> None:
    show_checkpoints(Kept(LocalShelf(tmp_path)), screen, as_json=False)
    assert "has no checkpoint" in shown(screen)
    with pytest.raises(BadInput, match="no such run"):
        find_kept("nothing", tmp_path)


def test_verify_names_the_damaged_one_and_its_file(folder, screen, capsys) -> None:
    kept = Kept(LocalShelf(folder))
    assert verify_checkpoints(kept, None, screen, as_json=False) is ExitCode.NOT_VERIFIED
    told = shown(screen)
    assert "step-00000002-g0002 is sound" in told
    assert "step-00000003-g0002 is damaged" in told
    assert "rank-00001.safetensors: bytes" in told
    assert verify_checkpoints(kept, "best", screen, as_json=True) is ExitCode.DONE
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    assert rows == [{"checkpoint": "step-00000001-g0002", "sound": True, "problems": []}]


def test_copies_are_of_the_one_that_is_wished_for(folder, screen, server, capsys, tmp_path) -> None:
    settings = StoreSettings(options=json.dumps(server.options))
    kept = Kept(LocalShelf(folder), settings=settings)
    assert copy_checkpoints(kept, server.url("copies/run"), "best", screen, as_json=True) is ExitCode.DONE
    url = server.url("copies/run/step-00000001-g0002")
    assert json.loads(capsys.readouterr().out) == {"format": 1, "copied": [url]}
    copy_checkpoints(kept, str(tmp_path / "copies"), "2", screen, as_json=False)
    assert f"copied and verified: {tmp_path / 'copies' / 'step-00000002-g0002'}" in shown(screen).replace("\n", "")
    assert [one.step for one in list_checkpoints(tmp_path / "copies")] == [2]


def config_of(server: S3Server, *sets: str) -> RunConfig:
    options = json.dumps(server.options["s3"])
    return load_config(CONFIG, sets=["name=mine", f"data.store.options.s3={options}", *sets]).config


def test_a_new_run_does_not_mix_its_checkpoints_with_those_of_another(server, tmp_path) -> None:
    config = config_of(server, "checkpoint.store=s3://bucket/kept")
    check_shelf_is_free(config, RunDir(tmp_path / "mine"))
    save_all(open_shelf(config, tmp_path), split(small_model(), 1, random.Random(0)))
    with pytest.raises(BadInput, match="checkpoints of another run already"):
        check_shelf_is_free(config, RunDir(tmp_path / "mine"))


def test_a_run_that_changes_its_store_takes_its_checkpoints_along(server, tmp_path, screen) -> None:
    stored, config = config_of(server), config_of(server, "checkpoint.store=s3://bucket/kept")
    run_dir = RunDir(tmp_path / "mine")
    check_checkpoints_moved(stored, config, run_dir)
    save_all(run_dir.checkpoints, split(small_model(), 1, random.Random(0)))
    with pytest.raises(BadInput, match=r"longhaul checkpoint copy .*mine s3://bucket/kept/mine"):
        check_checkpoints_moved(stored, config, run_dir)
    kept = Kept(open_shelf(stored, run_dir.checkpoints), settings=StoreSettings.of(stored.data))
    copy_checkpoints(kept, "s3://bucket/kept/mine", "last", screen, as_json=False)
    check_checkpoints_moved(stored, config, run_dir)
    check_checkpoints_moved(config, stored, run_dir)


def test_a_run_is_found_by_name_with_its_store(server, tmp_path) -> None:
    run_dir = tmp_path / "mine"
    (run_dir / "events").mkdir(parents=True)
    (run_dir / "config.yaml").write_text(dump_yaml(config_of(server, "checkpoint.store=s3://bucket/kept")))
    (run_dir / "manifest.json").write_text("{}")
    (run_dir / "plan.json").write_text('{"format": 1}')
    kept = find_kept("mine", tmp_path)
    assert kept.shelf.where("") == "s3://bucket/kept/mine"
    assert json.loads(kept.settings.options) == server.options
