"""Faults while a run lives: it goes on, or it ends with the reason. Nothing is lost either way."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from launch.chaos.find import find_writer
from tests.fakes.wandb_server import FakeWandbServer
from tests.integration.conftest import STEPS, Bench
from tests.integration.test_resume import wait_for_step

pytestmark = pytest.mark.cluster


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def assert_like_unbroken(bench: Bench, run: str, unbroken: str) -> None:
    assert bench.losses(run) == bench.losses(unbroken)
    assert bench.ledger(run) == bench.ledger(unbroken)
    mine, theirs = bench.weights(run), bench.weights(unbroken)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    proof = bench.longhaul("verify", run)
    assert proof.returncode == 0, proof.stderr


def pids_of_ranks(bench: Bench, run: str) -> list[int]:
    return [rank["pid"] for rank in bench.events(run, "started")[-1]["ranks"]]


def actor(kind: str, bench: Bench, run: str) -> psutil.Process:
    """The Ray process of one kind that belongs to this run: its output goes to the run's logs."""
    log = str(bench.path(run) / "logs" / f"{kind}.log")
    for process in psutil.process_iter():
        try:
            if process.name().startswith("ray::") and Path(f"/proc/{process.pid}/fd/1").readlink() == Path(log):
                return process
        except (psutil.NoSuchProcess, OSError):
            continue
    raise AssertionError(f"there is no {kind} of {run}")


def test_a_killed_rank_is_replaced_by_a_spare_and_costs_no_sample(bench: Bench, unbroken: str) -> None:
    command = bench.start("run", str(bench.config), "name=rank-killed")
    wait_for_step(bench, "rank-killed", 8)
    os.kill(pids_of_ranks(bench, "rank-killed")[1], signal.SIGKILL)
    assert command.wait(timeout=120) == 0
    [fault] = bench.events("rank-killed", "fault")
    assert (fault["kind"], fault["culprits"]) == ("rank", [1])
    before, after = bench.events("rank-killed", "started")
    pids = [[rank["pid"] for rank in event["ranks"]] for event in (before, after)]
    assert after["snapshot"] is not None
    assert pids[0][0] == pids[1][0]  # the survivor is still the same process
    assert_like_unbroken(bench, "rank-killed", unbroken)


def test_a_rank_that_one_fault_after_the_other_hits_goes_on_from_memory(bench: Bench, unbroken: str) -> None:
    """Three kills, of which the second comes while the world of the first is being formed."""
    command = bench.start("run", str(bench.config), "name=killed-thrice")
    wait_for_step(bench, "killed-thrice", 6)
    os.kill(pids_of_ranks(bench, "killed-thrice")[0], signal.SIGKILL)
    wait_until(lambda: len(bench.events("killed-thrice", "started")) > 1)
    os.kill(pids_of_ranks(bench, "killed-thrice")[0], signal.SIGKILL)
    wait_for_step(bench, "killed-thrice", 16)
    os.kill(pids_of_ranks(bench, "killed-thrice")[1], signal.SIGKILL)
    assert command.wait(timeout=120) == 0
    assert_like_unbroken(bench, "killed-thrice", unbroken)


def test_a_killed_controller_is_replaced_and_training_does_not_restart(bench: Bench) -> None:
    command = bench.start("run", str(bench.config), "name=adopted", "train.steps=200")
    wait_for_step(bench, "adopted", 8)
    actor("controller", bench, "adopted").kill()
    assert command.wait(timeout=180) == 0
    assert len(bench.events("adopted", "adopted")) == 1
    assert len(bench.events("adopted", "started")) == 1
    assert sorted(bench.rows("adopted")) == list(range(200))
    assert bench.longhaul("verify", "adopted").returncode == 0


def test_a_killed_scribe_loses_no_row(bench: Bench) -> None:
    command = bench.start("run", str(bench.config), "name=scribe-killed", "train.steps=100")
    for step in (8, 30):
        wait_for_step(bench, "scribe-killed", step)
        actor("scribe", bench, "scribe-killed").kill()
    assert command.wait(timeout=180) == 0
    assert sorted(bench.rows("scribe-killed")) == list(range(100))
    lines = (bench.path("scribe-killed") / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == 101  # no row twice
    assert bench.longhaul("verify", "scribe-killed").returncode == 0


def test_a_frozen_vault_is_ended_and_training_goes_on_with_another(bench: Bench, unbroken: str) -> None:
    """A checkpoint waits for it."""
    command = bench.start("run", str(bench.config), "elastic.heartbeat_timeout_s=1", "name=vault-frozen")
    wait_for_step(bench, "vault-frozen", 8)
    [log] = (bench.path("vault-frozen") / "logs").glob("vault-*.log")
    vault = find_writer(log)
    assert vault is not None
    os.kill(vault, signal.SIGSTOP)
    assert command.wait(timeout=120) == 0
    assert not psutil.pid_exists(vault)
    assert len(bench.events("vault-frozen", "started")) == 1
    assert_like_unbroken(bench, "vault-frozen", unbroken)


def test_a_run_outlives_the_command_that_started_it_and_takes_its_ray_with_it(bench: Bench) -> None:
    command = bench.start("run", str(bench.config), "name=left-alone", "train.steps=60")
    wait_for_step(bench, "left-alone", 5)
    keeper = next(child for child in psutil.Process(command.pid).children() if "launch.local" in child.cmdline())
    command.kill()
    command.wait()
    attached = bench.longhaul("resume", "left-alone")
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert len(bench.events("left-alone", "started")) == 1
    wait_until(lambda: not keeper.is_running() or keeper.status() == psutil.STATUS_ZOMBIE)


def test_a_second_interrupt_stops_at_once(bench: Bench) -> None:
    command = bench.start("run", str(bench.config), "name=at-once", "train.steps=5000", "checkpoint.every_steps=null")
    wait_for_step(bench, "at-once", 3)
    for pid in pids_of_ranks(bench, "at-once"):
        os.kill(pid, signal.SIGSTOP)  # they will not come to a step boundary
    command.send_signal(signal.SIGINT)
    wait_until(lambda: bench.events("at-once", "stopping"))
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=60) == 130
    [event] = bench.events("at-once", "stopped")
    assert "at once" in event["reason"]


def test_what_ranks_raise_is_told_once_with_rank_step_and_remedy(bench: Bench) -> None:
    failed = bench.run("diverged", "optim.lr=1e30", "train.clip_norm=null", "schedule.warmup_steps=0")
    assert failed.returncode == 1
    text = " ".join(failed.stdout.split())
    assert text.count("batches have numbers that go wrong") == 1
    assert "failed: rank 0, 1 on " in text
    assert "optim.lr" in text
    assert bench.longhaul("resume", "diverged").returncode == 1  # the same fault again, and no hang


AT_LENGTH = [(ranks, stage) for ranks in (1, 2, 3) for stage in range(4) if ranks + stage not in (1, 4)]


@pytest.mark.parametrize(
    ("ranks", "stage"),
    [(1, 0), (1, 3), (2, 2), (3, 1), *(pytest.param(*place, marks=pytest.mark.long) for place in AT_LENGTH)],
)
def test_a_stopped_run_goes_on_at_any_world_and_stage(bench: Bench, unbroken: str, ranks: int, stage: int) -> None:
    """Begun on two ranks at stage 2; ledger equal, losses within a bound stated for fp32."""
    name = f"move-{ranks}-{stage}"
    copy_until(bench, unbroken, name, generation_steps=15)
    moved = bench.longhaul(
        "resume", name, f"cluster.ranks_per_node={ranks}", f"deepspeed.zero_optimization.stage={stage}"
    )
    assert moved.returncode == 0, moved.stdout + moved.stderr
    assert bench.rows(name)[STEPS - 1]["world_size"] == ranks
    assert bench.ledger(name) == bench.ledger(unbroken)
    pairs = zip(bench.losses(name), bench.losses(unbroken), strict=True)
    apart = max(abs(mine - theirs) for mine, theirs in pairs)
    assert apart <= (0.0 if (ranks, stage) == (2, 2) else 1e-4)


def copy_until(bench: Bench, run: str, name: str, generation_steps: int) -> None:
    """`run` as it would lie there had everything been killed after its checkpoint at `generation_steps`."""
    path = bench.path(name)
    shutil.copytree(bench.path(run), path)
    for checkpoint in (path / "checkpoints").iterdir():
        if int(checkpoint.name.split("-")[1]) > generation_steps:
            shutil.rmtree(checkpoint)
    journal = path / "events" / "g0001.jsonl"
    journal.write_text("".join(line for line in journal.read_text().splitlines(True) if '"done"' not in line))


def test_an_online_run_reaches_the_server(bench: Bench) -> None:
    with FakeWandbServer() as server:
        account = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.url}
        done = bench.longhaul("run", str(bench.config), "name=online", "train.steps=6", env=account)
        assert done.returncode == 0, done.stdout + done.stderr
    told = {row["_step"]: row["train/loss"] for row in server.rows if "train/loss" in row}
    assert told == {step: row["loss"] for step, row in bench.rows("online").items()}
