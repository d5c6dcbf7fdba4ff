"""Preparing is killed again and again, and two prepare at once: what is left is what an undisturbed one leaves."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.prepare.run import prepare
from tests.fakes.pictures import picture_config, write_pictures
from tests.fakes.shards import make_config, read_tree, write_dataset

pytestmark = pytest.mark.cluster

_PREPARE = """
import sys
from pathlib import Path
from orchestrator.prepare.run import prepare
from tests.fakes.pictures import picture_config
from tests.fakes.shards import make_config
make = make_config if sys.argv[2] == "texts" else picture_config
print("begun", flush=True)
prepare(make(Path(sys.argv[1])))
"""
KILLS = 12


def start(root, kind):
    command = [sys.executable, "-c", _PREPARE, str(root), kind]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)


def published(root):
    """Without what knows the time or place of this copy, and without the unfinished files of the killed."""
    tree = read_tree(root / "work")
    return {
        name: data
        for name, data in tree.items()
        if not name.startswith(("index", "contents")) and "seen-" not in name and not name.endswith(".part")
    }


def make_data(root, kind):
    if kind == "texts":
        write_dataset(root / "data", 12, documents=400)
    else:
        write_pictures(root / "data", 12, pictures=400)


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_a_prepare_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path, kind):
    make_data(tmp_path / "calm", kind)
    make_data(tmp_path / "harassed", kind)
    config = make_config if kind == "texts" else picture_config
    prepare(config(tmp_path / "calm"))
    rng = random.Random(5)
    for _ in range(KILLS):
        process = start(tmp_path / "harassed", kind)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            process.wait(timeout=rng.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        process.stdout.close()
    prepare(config(tmp_path / "harassed"))
    assert published(tmp_path / "harassed") == published(tmp_path / "calm")


def test_two_that_prepare_at_once_both_succeed(tmp_path):
    make_data(tmp_path / "calm", "texts")
    make_data(tmp_path / "shared", "texts")
    prepare(make_config(tmp_path / "calm"))
    both = [start(tmp_path / "shared", "texts") for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
    assert [process.returncode for process in both] == [0, 0]
    assert published(tmp_path / "shared") == published(tmp_path / "calm")
