"""The verdict over three made-up runs: what must be equal is found out when it is not."""

import io
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch.chaos.compare import find_other_step, largest_difference, largest_weight_difference
from launch.chaos.drills import Runs, worlds_of
from launch.chaos.faults import parse_faults
from launch.chaos.judge import Verdict, judge
from launch.chaos.recoveries import Recovery
from launch.chaos.show import show_verdict
from launch.chaos.trial import Trial
from launch.screen import Screen
from orchestrator.config.load import load_config
from orchestrator.config.show import dump_yaml
from orchestrator.core.drill import Drill, WrongNumber
from orchestrator.core.words import ExitCode
from orchestrator.data.ordering.skips import Skips
from orchestrator.storage.lines import LineFile
from orchestrator.tracking.rundir import RunDir
from tests.fakes.saving import save_all, small_model, split
from tests.fakes.small_runs import small_config

STEPS = 12


def write_run(
    path: Path, *, losses: dict[int, float] | None = None, fed: dict[int, str] | None = None, seed: int = 0
) -> RunDir:
    """Steps that all feed alike, but for `losses` and `fed`; weights of their own seed."""
    path.mkdir()
    settings: dict[str, Any] = {"cluster": {"device": "cpu"}, "checkpoint": {"snapshot_every": 2}}
    (path / "config.yaml").write_text(dump_yaml(small_config(**settings)))
    at = [{"step": step, "generation": 1} for step in range(STEPS)]
    with LineFile(path / "metrics.jsonl", head={"format": 1}) as file:
        file.append([row | {"loss": (losses or {}).get(row["step"], 2.0)} for row in at])
    with LineFile(path / "ledger.jsonl", head={"format": 1}) as file:
        file.append([row | _sums((fed or {}).get(row["step"], "aa")) for row in at])
    save_all(path / "checkpoints", split(small_model(seed), 2, random.Random(seed)), step=STEPS)
    return RunDir(path)


def _sums(byte: str) -> dict[str, Any]:
    return {"order_digest": byte * 16, "set_digest": byte * 16, "count": 8}


def recovery(fault: str = "kill rank 1 @ 5", **fields: Any) -> Recovery:
    [one] = parse_faults(fault)
    given = {
        "fault": one,
        "t": 100.0,
        "step": one.step,
        "recovery_s": 0.3,
        "steps_replayed": 2,
        "labels": {"detect": 0.3},
    }
    return Recovery(**(given | fields))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    unbroken, broken, reference = (write_run(tmp_path / name) for name in ("unbroken", "broken", "reference"))
    return Runs(
        unbroken=unbroken,
        broken=broken,
        reference=reference,
        voided=frozenset(),
        same_world=True,
        recoveries=(recovery(),),
        missed=(),
    )


def problems(runs: Runs) -> str:
    verdict = judge(runs)
    assert (verdict.exit_code is ExitCode.DONE) == (not verdict.problems)
    return "\n".join(verdict.problems)


def test_three_equal_runs_pass(runs: Runs) -> None:
    verdict = judge(runs)
    assert verdict.exit_code is ExitCode.DONE
    assert verdict.to_json() == {
        "format": 1,
        "verdict": "pass",
        "problems": [],
        "ledger_equal": True,
        "loss_max_diff": 0.0,
        "weights_equal": True,
        "unbroken_loss_max_diff": 0.0,
        "faults": [
            {
                "fault": "kill rank 1 @ 5",
                "step": 5,
                "recovery_s": 0.3,
                "steps_replayed": 2,
                "labels": {"detect": 0.3},
                "slowest_step": None,
                "late_s": 0.0,
            }
        ],
    }


def test_while_the_scribe_is_away_no_snapshot_counts(runs: Runs) -> None:
    lost = recovery(steps_replayed=9, t=100.0)
    assert "9 steps were done again" in problems(replace(runs, recoveries=(lost,)))
    scribe = recovery("kill scribe @ 4", steps_replayed=0, t=95.0)
    assert problems(replace(runs, recoveries=(scribe, lost))) == ""
    later = replace(lost, t=106.0)
    assert "9 steps were done again" in problems(replace(runs, recoveries=(scribe, later)))


def test_a_step_that_fed_other_samples_breaks_the_promise(runs: Runs, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", fed={7: "bb"})
    assert problems(replace(runs, unbroken=other)) == "ledger: step 7 is another one than in the unbroken run"
    assert problems(replace(runs, reference=other)) == "ledger: step 7 is another one than in the reference"
    assert judge(replace(runs, reference=other)).to_json()["ledger_equal"] is False


def test_what_was_left_out_may_differ_from_the_unbroken_run_only(runs: Runs, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", fed={7: "bb"})
    assert problems(replace(runs, unbroken=other, voided=frozenset({7}))) == ""
    assert "reference" in problems(replace(runs, reference=other, voided=frozenset({7})))


def test_a_missing_step_is_a_difference(runs: Runs) -> None:
    rows = (runs.broken.path / "ledger.jsonl").read_text().splitlines(keepends=True)
    (runs.broken.path / "ledger.jsonl").write_text("".join(rows[:-1]))
    assert find_other_step(runs.broken, runs.reference) == STEPS - 1


def test_on_the_cpu_the_last_bit_of_a_loss_counts(runs: Runs, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", losses={3: math.nextafter(2.0, 3.0)})
    assert "bit for bit" in problems(replace(runs, reference=other))
    assert "bit for bit" in problems(replace(runs, unbroken=other))
    assert problems(replace(runs, unbroken=other, same_world=False)) == ""


def test_from_the_first_void_step_on_the_unbroken_run_learned_something_else(runs: Runs, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", losses={8: 3.0})
    apart = replace(runs, unbroken=other, same_world=False)
    assert "unbroken" in problems(apart)
    assert problems(replace(apart, voided=frozenset({6}))) == ""


def test_a_loss_that_only_one_run_has_is_infinitely_far(runs: Runs, tmp_path: Path) -> None:
    other, same = (write_run(tmp_path / name, losses={3: math.nan}) for name in ("other", "same"))
    assert largest_difference(runs.broken, other) == math.inf
    assert largest_difference(same, other) == 0.0


def test_other_weights_are_found(runs: Runs, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", seed=1)
    assert largest_weight_difference(runs.broken, runs.reference) == 0.0
    assert largest_weight_difference(runs.broken, other) > 0.0
    assert "final weights" in problems(replace(runs, reference=other))
    assert judge(replace(runs, reference=other)).to_json()["weights_equal"] is False


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (recovery(recovery_s=None, labels={}), "did not recover"),
        (recovery("kill scribe @ 5", recovery_s=None, slowest=3.0), "training was held up"),
        (recovery("add node @ 5", recovery_s=None), "the run ended before it had joined"),
        (recovery(steps_replayed=4), "4 steps were done again, more than 3"),
        (recovery("add node @ 5", steps_replayed=1), "1 steps were done again, more than 0"),
        (recovery(step=90, late_s=2.1), "was seen to be due 2.1 s late, at step 90"),
        (recovery(steps_replayed=3), ""),
        (recovery(steps_replayed=8, left_out=2), ""),
        (recovery(steps_replayed=9, left_out=2), "9 steps were done again, more than 8"),
        (recovery(step=90, late_s=1.9), ""),
    ],
)
def test_every_fault_is_held_against_its_promise(runs: Runs, one: Recovery, told: str) -> None:
    found = problems(replace(runs, recoveries=(one,)))
    assert told in found
    assert bool(told) == bool(found)


def test_a_fault_that_the_run_ended_before_breaks_the_verdict(runs: Runs) -> None:
    missed = tuple(parse_faults("kill rank 1 @ 90"))
    assert "kill rank 1 @ 90: the run ended before" in problems(replace(runs, missed=missed))


def test_a_run_that_failed_has_a_verdict_too(runs: Runs) -> None:
    verdict = judge(replace(runs, failed="the broken run has ended with 1"))
    assert verdict.problems == ("the broken run has ended with 1",)
    told = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert [told[name] for name in ("verdict", "ledger_equal", "loss_max_diff", "weights_equal")] == [
        "fail", False, None, False,
    ]  # fmt: skip
    assert [fault["fault"] for fault in told["faults"]] == ["kill rank 1 @ 5"]


def test_what_people_see_fits_into_80_columns(runs: Runs) -> None:
    said = io.StringIO()
    long = recovery(
        "cut node 1 @ 60 for 5s", labels={"detect": 5.031, "abort": 0.052, "re-form": 0.214, "restore": 0.04}
    )
    one = replace(
        runs, recoveries=(long, recovery("kill controller @ 90", recovery_s=0.0, steps_replayed=0, labels={}))
    )
    show_verdict(judge(one), Screen(Console(file=said, width=80)))
    text = said.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "5.031" in text
    assert "no pause" in text
    assert "every promise held" in text
    assert isinstance(judge(one), Verdict)


# ---- what the reference goes through ----


def started(step: int, world_size: int) -> dict[str, Any]:
    return {"event": "started", "step": step, "world_size": world_size, "t": 0.0}


def test_worlds_are_those_that_did_the_steps_of_the_run_as_it_stands() -> None:
    """Two nodes lost one at step 20, went back to 18, and got it back at 40."""
    assert worlds_of([started(0, 4), started(18, 2), started(40, 4)], 2) == ((0, 2), (18, 1), (40, 2))


def test_a_world_that_did_no_step_or_whose_steps_were_done_again_is_none() -> None:
    assert worlds_of([started(0, 4), started(18, 2), started(18, 4), started(10, 2)], 2) == ((0, 2), (10, 1))


def test_a_spare_in_a_dead_ranks_place_makes_no_other_world() -> None:
    assert worlds_of([started(0, 2), started(18, 2)], 2) == ((0, 1),)


def test_a_trial_says_all_that_its_run_begins_with(tmp_path: Path) -> None:
    drill = Drill(worlds=((0, 2), (18, 1)), wrong=(WrongNumber(7, "nan", times=1),))
    Trial(config=small_config(), drill=drill, voided=(3, 9)).write(tmp_path / "begin")
    read = json.loads((tmp_path / "begin" / "drill.json").read_text())
    assert Drill.from_json(read) == drill
    assert Skips.load(tmp_path / "begin" / "skips.jsonl").voided == {3, 9}
    assert load_config(tmp_path / "begin" / "config.yaml").config == small_config()
