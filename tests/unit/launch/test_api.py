"""The front door for scripts, as far as it needs no machines."""

import pytest

from launch.api import Run, train
from orchestrator.core.errors import ConfigError
from orchestrator.core.words import RunState
from tests.fakes.clock import FakeClock
from tests.fakes.run_dirs import WrittenRun

VALUES = {
    "name": "x",
    "data": {"train": [{"path": "nowhere"}]},
    "prepare": {"tokens": {"train_bpe": 300}},
    "model": {"transformers": {"model_type": "llama"}},
    "train": {"steps": 3, "global_batch": 2},
}


def test_a_mapping_is_checked_like_a_file():
    with pytest.raises(ConfigError) as caught:
        train(VALUES | {"trian": 3}, "train.steps=0")
    assert str(caught.value).splitlines() == [
        "the config: trian: unknown key; did you mean 'train'?",
        "command line: train.steps=0: train.steps: must be at least 1 (0)",
    ]


def test_the_mapping_given_is_left_alone():
    values = VALUES | {"train": {"steps": 3, "global_batch": 2}}
    with pytest.raises(ConfigError):
        train(values, "train.steps=-1", "optim.lr=2", "trian=1")
    assert values == VALUES


def test_a_run_tells_its_numbers(tmp_path):
    written = WrittenRun(tmp_path / "run", FakeClock())
    written.claim()
    written.start(nodes=1, ranks=2)
    written.train(range(4))
    run = Run(tmp_path / "run")
    assert (run.state, run.config.train.steps) == (RunState.RUNNING, 2_000)
    written.close()
    assert [row["step"] for row in run.metrics()] == [0, 1, 2, 3]
