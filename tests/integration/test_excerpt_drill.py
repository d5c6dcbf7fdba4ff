"""Runs looked at closely: some steps under the profiler, some in one process for a debugger, and compiled ones."""

import gzip
import json
import re

import pytest

from tests.integration.conftest import Bench

pytestmark = pytest.mark.cluster

STEPS = 8
SHORT = (f"train.steps={STEPS}", "checkpoint.every_steps=4", "schedule.warmup_steps=1")
ONE_RANK = "cluster.ranks_per_node=1"


@pytest.fixture(scope="module")
def alone(bench: Bench) -> str:
    done = bench.run("alone", ONE_RANK, *SHORT)
    assert done.returncode == 0, done.stderr
    return "alone"


def told_losses(printed: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"^step \d+: loss (\S+),", printed, re.MULTILINE)]


def test_debug_trains_in_one_process_with_the_numbers_of_a_run_with_one_rank(bench: Bench, alone: str) -> None:
    files_before = sorted(bench.path(alone).rglob("*"))
    done = bench.longhaul("debug", str(bench.config), *SHORT)
    assert done.returncode == 0, done.stderr
    assert told_losses(done.stdout) == bench.losses(alone)
    later = bench.longhaul("debug", alone, "--steps", "5:7")
    assert later.returncode == 0, later.stderr
    assert told_losses(later.stdout) == bench.losses(alone)[5:7]
    assert sorted(bench.path(alone).rglob("*")) == files_before, "nothing of the run is written"


def test_profile_watches_steps_of_a_copy_and_leaves_the_run_as_it_is(bench: Bench, alone: str) -> None:
    before = (bench.path(alone) / "metrics.jsonl").read_bytes()
    done = bench.longhaul("profile", alone, "--steps", "5:7", "--ranks", "all")
    assert done.returncode == 0, done.stderr
    assert "a copy of alone trains steps 4 to 6" in done.stdout
    assert "aten::" in done.stdout
    copy = f"{alone}/profiles/steps-5-7"
    assert bench.losses(copy) == bench.losses(alone)[4:7]
    with gzip.open(bench.path(copy) / "rank-00000.trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    names = {event["name"] for event in events if event.get("cat") == "user_annotation"}
    assert {name for name in names if name.startswith("step ")} == {"step 5", "step 6"}
    assert (bench.path(alone) / "metrics.jsonl").read_bytes() == before
    again = bench.longhaul("profile", alone, "--steps", "5:7")
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.long
def test_profile_of_a_config_begins_at_its_first_step(bench: Bench) -> None:
    done = bench.longhaul("profile", str(bench.config), "name=fresh", *SHORT, "--steps", "1:2", "--ranks", "1")
    assert done.returncode == 0, done.stderr
    assert list((bench.folder / "runs").glob("fresh-profiles-steps-1-2/rank-00001.trace.json.gz"))
    assert not bench.path("fresh").exists()


@pytest.mark.long
def test_a_compiled_model_trains_and_is_validated_as_the_plain_one(bench: Bench) -> None:
    sets = ("train.steps=4", "schedule.warmup_steps=1", "checkpoint.every_steps=null")
    plain, compiled = bench.run("plain", *sets), bench.run("compiled", "train.compile=true", *sets)
    assert (plain.returncode, compiled.returncode) == (0, 0), compiled.stderr
    assert bench.losses("compiled") == pytest.approx(bench.losses("plain"), rel=1e-4)
    assert bench.weights("compiled").keys() == bench.weights("plain").keys()
