"""A run that is fed pictures as they are, for epochs, with one that does not decode: killed and resumed, it is the
unbroken run bit by bit, and its proof knows what was left out."""

import json
import random

import pytest

from tests.integration.conftest import BROKEN, PICTURE_SHARDS, PICTURE_STEPS, PICTURES, Bench, family_of
from tests.integration.test_resume import wait_for_step

pytestmark = pytest.mark.cluster


def read_holes(bench: Bench, run: str) -> list[tuple[int, int, str]]:
    """Step, position and sample of the rows of skips.jsonl after its head."""
    lines = (bench.path(run) / "skips.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    return [(row["step"], row["position"], row["sample"]) for row in rows]


def test_epochs_of_pictures_are_fed_and_proven_but_for_the_one_that_does_not_decode(
    picture_bench: Bench, unbroken_pictures: str
) -> None:
    rows = picture_bench.rows(unbroken_pictures)
    assert sorted(rows) == list(range(PICTURE_STEPS))
    assert sum(row["samples"] for row in rows.values()) == 2 * (PICTURE_SHARDS * PICTURES - 1)
    holes = read_holes(picture_bench, unbroken_pictures)
    assert [sample for *_, sample in holes] == ["pictures/{:03d}.tar/p{:03d}".format(*BROKEN)] * 2  # once an epoch
    assert [step for step, row in rows.items() if row.get("holes")] == [step for step, *_ in holes]
    proof = picture_bench.longhaul("verify", unbroken_pictures)
    assert proof.returncode == 0, proof.stderr
    for epoch in range(2):
        assert f"epoch {epoch} of pictures: {PICTURE_SHARDS * PICTURES} samples are all that were kept" in proof.stdout


def test_a_proof_that_does_not_know_of_a_hole_fails(picture_bench: Bench, unbroken_pictures: str) -> None:
    skips = picture_bench.path(unbroken_pictures) / "skips.jsonl"
    known = skips.read_text()
    try:
        skips.write_text("".join(known.splitlines(keepends=True)[:-1]))
        proof = picture_bench.longhaul("verify", unbroken_pictures)
    finally:
        skips.write_text(known)
    last = json.loads(known.splitlines()[-1])["step"]
    assert proof.returncode == 4
    assert f"step {last}: order_digest must be" in proof.stderr


def test_killing_everything_and_resuming_is_bit_equal(picture_bench: Bench, unbroken_pictures: str) -> None:
    step = random.randrange(12, PICTURE_STEPS - 12)
    print(f"killed after step {step}")
    command = picture_bench.start("run", str(picture_bench.config), "name=killed")
    wait_for_step(picture_bench, "killed", 0)
    family = family_of(picture_bench.folder)  # looked up before, since the run does not wait meanwhile
    wait_for_step(picture_bench, "killed", step)
    for process in family:
        process.kill()
    command.wait(timeout=30)
    assert PICTURE_STEPS - 1 not in picture_bench.rows("killed")
    resumed = picture_bench.longhaul("resume", "killed")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert picture_bench.events("killed", "started")[1]["checkpoint"] is not None
    assert picture_bench.losses("killed") == picture_bench.losses(unbroken_pictures)
    assert picture_bench.ledger("killed") == picture_bench.ledger(unbroken_pictures)
    assert read_holes(picture_bench, "killed") == read_holes(picture_bench, unbroken_pictures)
    proof = picture_bench.longhaul("verify", "killed", "--against", unbroken_pictures)
    assert proof.returncode == 0, proof.stderr
    assert "largest difference of losses 0, " in proof.stdout
