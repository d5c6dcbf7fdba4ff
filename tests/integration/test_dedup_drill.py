"""`longhaul prepare` that cleans, compares and tokenizes on Ray. Everything is killed again and again, two prepare at
once, workers are killed: what is left is what one process leaves that nobody disturbed."""

import contextlib
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.importing.workers import worker_processes
from orchestrator.prepare.run import prepare
from tests.fakes.copies import everything, published, write_everything
from tests.integration.conftest import Bench, set_up

pytestmark = pytest.mark.cluster
KILLS = 5
DOCUMENTS = 800  # a shard: Ray works on them for some seconds
JOBS = re.compile(r"ray::(sign_shard|match_bands|score_slice|judge_crowd|prepare_shard|check_content|train_tokenizer)")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("calm")
    write_everything(root, DOCUMENTS)
    prepare(everything(root))
    return published(root)


@pytest.fixture
def harassed(tmp_path: Path) -> Iterator[Bench]:
    write_everything(tmp_path, DOCUMENTS)
    config = everything(tmp_path).model_dump(mode="json", exclude_unset=True)
    with set_up(tmp_path, config | {"root": "runs", "task": {"seq_len": 32}}) as bench:
        yield bench


def family_of(pid: int) -> list[psutil.Process]:
    """The command, its Ray, and all that Ray started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def find_jobs(pid: int) -> list[psutil.Process]:
    """Workers of Ray that do a job just now."""
    found = []
    for process in family_of(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if JOBS.match(" ".join(process.cmdline())):
                found.append(process)
    return found


def wait_for_job(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Empty when the command has ended."""
    while process.poll() is None:
        if jobs := find_jobs(process.pid):
            return jobs
        time.sleep(0.01)
    return []


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def test_a_prepare_with_everything_killed_again_and_again_ends_as_if_it_never_was(harassed, calm):
    rng, killed = random.Random(7), 0
    for _ in range(KILLS):
        process = harassed.start("prepare", "test.yaml")
        wait_for_job(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 1.5))
        killed += process.poll() is None
        kill_all(family_of(process.pid))
        process.wait()
    assert killed >= KILLS // 2
    done = harassed.longhaul("prepare", "test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert published(harassed.folder) == calm


def test_two_that_prepare_at_once_both_succeed(harassed, calm):
    both = [harassed.start("prepare", "test.yaml", f"name=test{i}") for i in range(2)]
    assert [process.wait(240) for process in both] == [0, 0]
    assert published(harassed.folder) == calm


def test_a_killed_worker_costs_its_job_only(harassed, calm):
    rng, killed = random.Random(9), 0
    process = harassed.start("prepare", "test.yaml")
    while killed < KILLS and (jobs := wait_for_job(process)):
        victim = rng.choice(jobs)
        kill_all([victim])
        killed += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.5))
    assert process.wait(240) == 0
    assert killed > 1
    assert published(harassed.folder) == calm


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_processes_gives_the_same_bytes(calm, tmp_path, workers):
    write_everything(tmp_path, DOCUMENTS)
    with worker_processes(workers) as run_all:
        prepare(everything(tmp_path), run_all)
    assert published(tmp_path) == calm
