"""Kill everything anywhere and resume: losses, ledger and weights are those of the unbroken run. The other signals,
which stop a run in the same way as Ctrl-C, are left to the drills."""

import random
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch

from tests.integration.conftest import STEPS, Bench, family_of


def wait_for_step(bench: Bench, run: str, step: int, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    metrics = bench.path(run) / "metrics.jsonl"
    while time.monotonic() < deadline:
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"{run} did not reach step {step}")


def folders_of_keepers() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("longhaul-*"))


@pytest.mark.cluster
def test_killing_everything_and_resuming_is_bit_equal(bench: Bench, unbroken: str) -> None:
    before = folders_of_keepers()  # others may train on this machine
    step = random.randrange(6, STEPS - 6)
    print(f"killed after step {step}")
    command = bench.start("run", str(bench.config), "name=killed")
    wait_for_step(bench, "killed", step)
    family = family_of(bench.folder)
    assert len(family) > 6  # command, keeper, Ray's own, controller, scribe, node actor, ranks
    for process in family:
        process.kill()
    command.wait(timeout=30)
    left = folders_of_keepers() - before
    assert left  # by the killed keeper
    resumed = bench.longhaul("resume", "killed")
    assert not left & folders_of_keepers()
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    [first, second] = bench.events("killed", "started")
    assert first["checkpoint"] is None
    assert second["checkpoint"] is not None
    assert bench.losses("killed") == bench.losses(unbroken)
    assert bench.ledger("killed") == bench.ledger(unbroken)
    mine, theirs = bench.weights("killed"), bench.weights(unbroken)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    proof = bench.longhaul("verify", "killed", "--against", unbroken)
    assert proof.returncode == 0, proof.stderr


@pytest.mark.cluster
def test_interrupt_stops_after_a_checkpoint_and_resume_on_another_world_goes_on(bench: Bench, unbroken: str) -> None:
    command = bench.start("run", str(bench.config), "name=stopped")
    wait_for_step(bench, "stopped", 6)
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=60) == 130
    [event] = bench.events("stopped", "stopped")
    assert 6 < event["step"] < STEPS
    resumed = bench.longhaul(
        "resume", "stopped", "cluster.ranks_per_node=3", "deepspeed.zero_optimization.stage=3", timeout_s=300
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert bench.events("stopped", "started")[-1]["checkpoint"] == f"step-{event['step']:08d}-g0001"
    assert bench.rows("stopped")[STEPS - 1]["world_size"] == 3
    assert bench.ledger("stopped") == bench.ledger(unbroken)
    pairs = zip(bench.losses("stopped"), bench.losses(unbroken), strict=True)
    assert max(abs(a - b) for a, b in pairs) < 1e-4


@pytest.mark.cluster
def test_a_notice_that_the_machines_go_has_its_own_exit_code_and_the_same_command_goes_on(
    bench: Bench, unbroken: str
) -> None:
    """As a scheduler does it: it repeats one command until that is done."""
    again = ("run", "--or-resume", str(bench.config), "name=requeued")
    command = bench.start(*again)
    wait_for_step(bench, "requeued", 6)
    command.send_signal(signal.SIGUSR1)
    assert command.wait(timeout=60) == 75
    [event] = bench.events("requeued", "stopped")
    assert 6 < event["step"] < STEPS
    assert event["exit_code"] == 75
    resumed = bench.longhaul(*again)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert bench.losses("requeued") == bench.losses(unbroken)
    assert bench.ledger("requeued") == bench.ledger(unbroken)
    done = bench.longhaul(*again)
    assert done.returncode == 0
    assert "is done" in done.stdout


@pytest.mark.cluster
def test_termination_stops_after_a_checkpoint(bench: Bench) -> None:
    command = bench.start("run", str(bench.config), "name=terminated", "train.steps=1000")
    wait_for_step(bench, "terminated", 3)
    command.terminate()
    assert command.wait(timeout=60) == 130
    [event] = bench.events("terminated", "stopped")
    assert bench.events("terminated", "checkpoint")[-1]["step"] == event["step"]
    other = bench.longhaul("run", "--or-resume", str(bench.config), "name=terminated", "train.steps=1000", "seed=5")
    assert other.returncode == 2
    assert "seed" in other.stderr
