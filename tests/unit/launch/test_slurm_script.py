"""The batch script without Slurm: the programs it calls are fakes that write down how they were called.

The real thing is tests/integration/test_slurm.py."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parents[3] / "cluster" / "slurm" / "longhaul.sbatch"

# A Ray that only has a folder and listens where its head would; told to end, it ends.
RAY = """#!/usr/bin/env python3
import pathlib, socket, sys, time
options = dict(word.split("=", 1) for word in sys.argv if word.startswith("--") and "=" in word)
pathlib.Path(options["--temp-dir"]).mkdir(exist_ok=True)
server = socket.create_server((options["--node-ip-address"], int(options["--port"])))
time.sleep(60)
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo "   NodeAddr=127.0.0.1 NodeHostName=n1"; else echo "scontrol $*" >>calls; fi
"""
FAKES = {
    "ray": RAY,
    "scontrol": SCONTROL,
    "longhaul": '#!/bin/sh\necho "longhaul $* at $RAY_ADDRESS with $RAY_AUTH_TOKEN" >>calls\nexit 0\n',
}
# Says that it runs, and ends with the exit code that says which signal it got.
PATIENT = """#!/bin/bash
trap 'echo USR1 >>calls; exit 75' USR1
trap 'echo TERM >>calls; exit 130' TERM
echo running >>calls
while :; do sleep 0.05; done
"""


@dataclass
class Job:
    """A job of one node in a folder; `fakes` come first in its PATH."""

    folder: Path
    number: int
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def fake(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        variables = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": str(self.number),
            "SLURMD_NODENAME": "n1", "SLURM_CPUS_ON_NODE": "2", "SLURM_JOB_NUM_NODES": "1",
        }  # fmt: skip
        command = ["bash", str(SCRIPT), *arguments]
        process = subprocess.Popen(command, cwd=self.folder, env=variables, stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        said, _ = process.communicate(timeout=20)
        return process.returncode, said

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    (tmp_path / "bin").mkdir()
    job = Job(tmp_path, random.randrange(10**8, 10**9))
    for name, text in FAKES.items():
        job.fake(name, text)
    yield job
    for process in job.started:  # those that a failed test left
        process.terminate()
        process.communicate(timeout=20)
    assert not Path(f"/tmp/lh-{job.number}").exists()
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if f"lh-{job.number}" in command], "a Ray was left behind"


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def test_the_run_gets_its_config_its_nodes_and_what_else_was_given(job: Job) -> None:
    code, _ = job.finish(job.start("a config.yaml", "-o", "b.yaml", "train.steps=3"))
    [call] = job.calls()
    assert code == 0
    assert call.startswith("longhaul run a config.yaml --or-resume cluster.address=auto ")
    assert " cluster.nodes.min=1 cluster.nodes.max=1 -o b.yaml train.steps=3 at 127.0.0.1:2" in call
    assert len(call.rpartition(" ")[2]) == 64


@pytest.mark.parametrize("code", [1, 2, 130])
def test_the_exit_code_is_passed_on_and_nothing_is_requeued(job: Job, code: int) -> None:
    job.fake("longhaul", f"#!/bin/sh\nexit {code}\n")
    assert job.finish(job.start("c.yaml"))[0] == code
    assert job.calls() == []


def test_a_notice_reaches_the_run_and_the_job_is_requeued(job: Job) -> None:
    job.fake("longhaul", PATIENT)
    process = job.start("c.yaml")
    wait_until(lambda: job.calls() == ["running"])
    process.send_signal(signal.SIGUSR1)
    assert job.finish(process)[0] == 75
    assert job.calls() == ["running", "USR1", f"scontrol requeue {job.number}"]


def test_scancel_reaches_the_run_and_the_job_ends(job: Job) -> None:
    job.fake("longhaul", PATIENT)
    process = job.start("c.yaml")
    wait_until(lambda: job.calls() == ["running"])
    process.send_signal(signal.SIGTERM)
    assert job.finish(process)[0] == 130
    assert job.calls() == ["running", "TERM"]


def test_a_notice_before_the_run_begins_requeues_too(job: Job) -> None:
    job.fake("ray", "#!/bin/sh\ntouch up\nexec sleep 60\n")  # it never listens
    process = job.start("c.yaml")
    wait_until((job.folder / "up").exists)
    process.send_signal(signal.SIGUSR1)
    assert job.finish(process)[0] == 75
    assert job.calls() == [f"scontrol requeue {job.number}"]


def test_a_ray_that_does_not_start_ends_the_job_with_the_place_to_look(job: Job) -> None:
    job.fake("ray", "#!/bin/sh\necho no such port\nexit 1\n")
    code, said = job.finish(job.start("c.yaml"))
    assert code == 1
    log = f"longhaul-{job.number}.ray.log"
    assert f"Ray did not start on n1: see {log}" in said
    assert "no such port" in (job.folder / log).read_text()
    assert job.calls() == []


def test_a_missing_config_is_told(job: Job) -> None:
    process = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert process.returncode != 0
    assert "longhaul.sbatch CONFIG" in process.stderr
