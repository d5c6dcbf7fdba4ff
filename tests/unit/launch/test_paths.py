"""Where relative paths of a config start."""

from pathlib import Path

import pytest

from launch.paths import relative_keys, with_absolute_paths
from orchestrator.config.load import load_config

CONFIG = Path(__file__).parents[3] / "configs" / "tiny.yaml"


def test_relative_paths_start_where_the_command_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(load_config(CONFIG).config)
    assert config.root == str(tmp_path / "runs")
    assert config.data.train[0].path == str(tmp_path / "data" / "demo")


def test_with_a_shared_folder_they_start_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [
        "cluster.shared=/mnt/all",
        "prepare.tokens.train_bpe=null",
        "prepare.tokens.tokenizer=tok.json",
        "root=/elsewhere/runs",
    ]
    config = with_absolute_paths(load_config(CONFIG, (), sets).config)
    assert (config.root, config.data.work) == ("/elsewhere/runs", "/mnt/all/data/.longhaul")
    assert config.prepare.tokens is not None
    assert config.prepare.tokens.tokenizer == "/mnt/all/tok.json"
    assert not list(relative_keys(config))


def test_relative_paths_are_named_by_key_and_value() -> None:
    config = load_config(CONFIG, (), ["root=/mnt/runs"]).config
    assert list(relative_keys(config)) == ["data.train.0.path=data/demo", "data.work=data/.longhaul"]


def test_the_model_of_a_step_of_cleaning_is_a_path_too() -> None:
    step = '{"name": "language", "args": {"model": "lid.bin", "languages": ["en"]}}'
    config = load_config(CONFIG, (), [f"prepare.clean=[{step}]"]).config
    assert "prepare.clean.0.args.model=lid.bin" in list(relative_keys(config))
