"""docs/your-own-model.md, as somebody would follow it: its files, its commands, its script."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import environment

pytestmark = pytest.mark.cluster

GUIDE = (Path(__file__).parents[2] / "docs" / "your-own-model.md").read_text()
BLOCKS = re.findall(r"```(?:python|yaml)\n(.*?)```", GUIDE, flags=re.DOTALL)
QUICK = ("train.epochs=1", "data.train.0.path=digits", "data.work=work", "tracking.wandb.mode=off")


def block(first_line: str) -> str:
    (found,) = (text for text in BLOCKS if text.startswith(first_line))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_digits.py").write_text(block("# my_digits.py\n") + block("# my_digits.py, further down"))
    (folder / "my_digits.yaml").write_text(block("# my_digits.yaml"))
    return folder


def call(folder: Path, *arguments: str) -> str:
    """Python as an installed command has it: without the current folder in its path."""
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_module_of_ones_own_is_trained_and_evaluated_on_two_ranks(folder):
    call(folder, "-m", "launch.cli", "run", "my_digits.yaml", *QUICK)
    told = json.loads(call(folder, "-m", "launch.cli", "evaluate", "my-digits", "--split", "test", "--json"))
    assert told["metrics"]["accuracy"] > 0.3  # of ten classes, after one epoch
    assert (folder / "runs" / "my-digits").is_dir()


def test_a_script_trains_it_with_a_step_of_ones_own(folder):
    script = block("from launch.api import train").replace('"train.epochs=2"', ", ".join(f'"{one}"' for one in QUICK))
    script = script.replace('"name=from-python"', '"name=from-python", "task.step=my_digits:step"')
    script = script.replace('["accuracy"]', '["loss"]')  # a sum of losses says nothing of classes
    assert "done" in call(folder, "-c", script).splitlines()[-1]
