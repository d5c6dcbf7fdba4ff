"""`longhaul import` killed at random moments: run again it goes on, to the shards of an undisturbed import."""

import contextlib
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fakes.shards import write_tar

pytestmark = pytest.mark.cluster
SHARD_BYTES = 1_000_000
MOST_KILLS = 12


def make_lines(folder: Path) -> list[str]:
    rng = random.Random(1)
    with (folder / "a.jsonl").open("w") as file:
        for i in range(40_000):
            file.write(json.dumps({"id": f"k{i}", "text": "word " * rng.randint(1, 150)}) + "\n")
    return ["a.jsonl", "--text", "text", "--key", "id"]


def make_table(folder: Path) -> list[str]:
    rng = random.Random(2)
    table = pa.table({"image": [rng.randbytes(3000) for _ in range(5000)], "label": list(range(5000))})
    pq.write_table(table, folder / "a.parquet", row_group_size=100)
    return ["a.parquet", "--member", "jpg=image", "--member", "cls=label", "--drop-rest"]


def make_archives(folder: Path) -> list[str]:
    rng = random.Random(3)
    (folder / "archives").mkdir()
    for name in range(8):
        keys = [f"{name}-{i:04d}" for i in range(500)]
        members = [(f"{key}.{suffix}", rng.randbytes(1000)) for suffix in ("bin", "txt") for key in keys]
        tar = write_tar(folder / "archives" / f"{name}.tar.gz", members)
        tar.write_bytes(gzip.compress(tar.read_bytes(), 1))
    return ["archives"]


def start(folder: Path, arguments: list[str], out: str) -> subprocess.Popen[str]:
    source, *options = arguments
    limits = ["--shard-bytes", str(SHARD_BYTES), "--workers", "2", "--name", "s", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "import", source, out, *options, *limits],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until_at_work(process: subprocess.Popen[str], folder: Path) -> None:
    """Until it holds the folder nothing is written, and Ctrl-C may meet Python itself, which is still starting."""
    lock = str(folder / ".import" / "lock")
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it ends just now
            if any(file.path == lock for file in psutil.Process(process.pid).open_files()):
                return
        time.sleep(0.01)


def strike(process: subprocess.Popen[str], how: signal.Signals) -> None:
    """Ctrl-C meets the workers, too; after SIGKILL of the command alone they must end by themselves."""
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.kill()


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    told, complaint = process.communicate(timeout=240)
    assert process.returncode == 0, complaint
    report = json.loads(told)
    assert isinstance(report, dict)
    return {key: value for key, value in report.items() if key != "folder"}


def hash_files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive, f"left behind: {alive}"


@pytest.mark.long
@pytest.mark.parametrize("make", [make_lines, make_table, make_archives])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_import_goes_on_to_the_same_bytes(tmp_path: Path, make: object, how: signal.Signals) -> None:
    arguments = make(tmp_path)  # type: ignore[operator]
    process = start(tmp_path, arguments, "whole")
    wait_until_at_work(process, tmp_path / "whole")
    begun = time.monotonic()
    undisturbed = finish(process)
    took_s = time.monotonic() - begun
    rng = random.Random(int(how))
    kills = 0
    for _ in range(MOST_KILLS):
        process = start(tmp_path, arguments, "out")
        wait_until_at_work(process, tmp_path / "out")
        try:
            process.communicate(timeout=rng.uniform(0, took_s * 0.9))
            if kills > 0:
                break
            shutil.rmtree(tmp_path / "out")  # it was complete before the first kill
        except subprocess.TimeoutExpired:
            family = psutil.Process(process.pid).children(recursive=True)
            strike(process, how)
            complaint = process.communicate(timeout=20)[1]
            wait_until_gone(family)
            if how is signal.SIGINT:  # after SIGKILL a worker that was just starting may say that it starts in vain
                assert "Traceback" not in complaint, complaint
            kills += 1
    assert kills > 0
    assert finish(start(tmp_path, arguments, "out")) == undisturbed
    assert hash_files(tmp_path / "out") == hash_files(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob("*.part"))


def test_what_a_killed_import_has_done_is_not_done_again(tmp_path: Path) -> None:
    arguments = make_archives(tmp_path)
    process = start(tmp_path, arguments, "out")
    done = tmp_path / "out" / ".import" / "done"
    while len(list(done.glob("*.json"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=20)
    markers = {path: path.stat().st_mtime_ns for path in done.glob("*.json")}
    process = start(tmp_path, arguments, "out")
    while process.poll() is None and len(list(done.glob("*.json"))) < 8:
        now = {path: path.stat().st_mtime_ns for path in markers if path.exists()}
        assert now.items() <= markers.items()
        time.sleep(0.01)
    told, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    assert json.loads(told)["samples"] == 4000
