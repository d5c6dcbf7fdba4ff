"""A checkpoint is there whole or not at all: whoever is killed, whatever the disk refuses."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoint.found import list_checkpoints, newest_sound, verify
from orchestrator.checkpoint.fragments import Fragment
from orchestrator.checkpoint.reader import open_checkpoint
from tests.fakes.dying import do_until_killed
from tests.fakes.saving import make_model, save_all, small_model, split


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the code under test may catch it."""


def test_a_checkpoint_is_a_folder_with_two_files_a_rank(tmp_path: Path) -> None:
    outcome = save_all(tmp_path, split(small_model(), 3, random.Random(0)))
    path = tmp_path / "step-00000007-g0002"
    assert outcome.path == str(path)
    assert outcome.size_bytes == sum(file.stat().st_size for file in path.glob("*.safetensors"))
    assert sorted(file.name for file in path.iterdir()) == [
        "COMMIT",
        "manifest.json",
        *(f"rank-{rank:05d}.{kind}" for rank in range(3) for kind in ("json", "safetensors")),
    ]


def test_a_state_with_a_hole_is_not_committed(tmp_path: Path) -> None:
    ranks = split(small_model(), 2, random.Random(0))
    lost: Fragment = ranks[1].fragments.pop()
    outcome = save_all(tmp_path, ranks)
    assert not outcome.path
    assert lost.name in outcome.problem
    assert list(tmp_path.iterdir()) == []


def test_a_committed_checkpoint_is_never_written_over(tmp_path: Path) -> None:
    save_all(tmp_path, split(small_model(0), 1, random.Random(0)))
    outcome = save_all(tmp_path, split(small_model(1), 1, random.Random(0)))
    assert not outcome.path
    assert "committed checkpoint already" in outcome.problem
    assert verify(tmp_path / "step-00000007-g0002") == []


def test_leftovers_go_with_the_next_save_and_others_stay(tmp_path: Path) -> None:
    for name in ("step-00000005-g0001", "step-00000009-g0001", "step-00000006-g0002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank-00000.safetensors").write_bytes(b"half")
    (tmp_path / "step-00000008-g0003").mkdir()  # a later generation is at work there
    (tmp_path / "notes").mkdir()
    save_all(tmp_path, split(small_model(), 2, random.Random(0)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-00000007-g0002", "step-00000008-g0003"]


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    outcome = save_all(tmp_path, split(small_model(), 2, random.Random(0)))
    assert not outcome.path
    assert "make room" in outcome.problem
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_costs_this_checkpoint_only(full_disk: Path) -> None:
    tiny, big = small_model(), make_model([((50_000,), "buffer", "float32")])  # 200 kB a rank, and two ranks
    save_all(full_disk, split(tiny, 2, random.Random(0)), step=1)
    ranks = [*split(big, 1, random.Random(0)), *split(big, 1, random.Random(0))]
    assert not save_all(full_disk, ranks, step=2).path
    assert [path.name for path in full_disk.iterdir()] == ["step-00000001-g0002"]
    assert save_all(full_disk, split(tiny, 2, random.Random(0)), step=3).path
    assert newest_sound(full_disk) == (full_disk / "step-00000003-g0002", [])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()])
def test_stopped_at_any_flush_the_older_checkpoint_stays_the_newest(
    tmp_path: Path, monkeypatch: Any, error: BaseException
) -> None:
    """Counts the flushes of one save, then stops a save at each of them."""
    flush, ranks = os.fsync, split(small_model(), 1, random.Random(0))
    save_all(tmp_path, ranks, step=1)
    for stop_at in count():
        flushes = 0

        def flush_or_stop(handle: int, stop_at: int = stop_at) -> None:
            nonlocal flushes
            flushes += 1
            if flushes > stop_at:
                raise error
            flush(handle)

        monkeypatch.setattr(os, "fsync", flush_or_stop)
        try:
            is_done = bool(save_all(tmp_path, ranks, step=2 + stop_at).path)
        except Killed:
            is_done = False
        monkeypatch.setattr(os, "fsync", flush)
        found, _ = newest_sound(tmp_path)
        if is_done:
            break
        committed = [one.path for one in list_checkpoints(tmp_path)]
        assert found == committed[-1]  # the older one, or the new one if only its last flush was missing
    assert stop_at >= 6
    assert all(verify(one.path) == [] for one in list_checkpoints(tmp_path))


def test_a_writer_killed_at_any_moment_leaves_the_newest_committed_loadable(tmp_path: Path) -> None:
    chance = random.Random(3)
    model = make_model([((64, 513), "trainable", "bfloat16"), ((7,), "buffer", "int64")])
    ranks = split(model, 2, chance)

    def save_forever(step: int) -> None:
        torch.set_num_threads(1)  # its pool of threads does not survive a fork
        for later in count(step):
            save_all(tmp_path, ranks, step=later)

    step = 1
    for _ in range(30):
        do_until_killed(partial(save_forever, step), after_s=0.02 + 0.1 * chance.random())
        committed = list_checkpoints(tmp_path)
        assert [one.problem for one in committed] == [""] * len(committed)
        if committed:
            found, _ = newest_sound(tmp_path)
            assert found == committed[-1].path
            reader = open_checkpoint(found)
            for (name, state), values in model.values.items():
                assert reader.read(name, state, 0, values.numel()).equal(values)
            reader.close()
            step = committed[-1].step + 1
    assert step > 3
    save_all(tmp_path, ranks, step=step + 1)
    assert len(list(tmp_path.iterdir())) == len(list_checkpoints(tmp_path))  # no leftover of any of the killed
