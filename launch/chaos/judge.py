"""The verdict: whether what Longhaul promises held in the broken run. After drills.py and compare.py."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launch.chaos.compare import find_other_step, largest_difference, largest_weight_difference
from launch.chaos.drills import Runs
from launch.chaos.faults import Fault, Kind
from launch.chaos.recoveries import Recovery
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.core.words import ExitCode

BOUNDS = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}  # of losses, once another world or a void step came between
MOST_LATE_S = 2.0  # what is seen to be due later was not struck where it was asked for
SCRIBE_BACK_S = 10.0  # after the scribe was struck: until rows are told again, no snapshot counts and no step is seen
_SETTLING = 1  # a snapshot is whole on every rank a step after it was taken


def judge(runs: Runs) -> "Verdict":
    config = load_config(runs.unbroken.config).config
    compared = _not_compared(runs.failed) if runs.failed else compare(runs, config)
    problems = [*compared.problems, *tell_missed(runs.missed), *check_promises(runs.recoveries, config)]
    return Verdict(compared=compared, recoveries=runs.recoveries, problems=tuple(problems))


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    ledger_equal: bool
    loss_max_diff: float  # to the reference
    weights_max_diff: float
    unbroken_loss_max_diff: float  # before the first batch that was left out
    problems: tuple[str, ...]


def compare(runs: Runs, config: RunConfig) -> Compared:
    """Everything that two runs can be compared by, and what of it must not be."""
    others = list(_other_steps(runs))
    exact = is_exact(config)
    loss = largest_difference(runs.broken, runs.reference)
    weights = largest_weight_difference(runs.broken, runs.reference)
    first_void = min(runs.voided, default=None)
    to_unbroken = largest_difference(runs.broken, runs.unbroken, before=first_void)
    bound = BOUNDS[config.train.precision]
    problems = list(others)
    if loss > (0.0 if exact else bound):
        problems.append(f"losses are up to {loss:.3g} from those of the reference, {_must(exact, bound)}")
    if exact and weights > 0.0:
        problems.append(f"final weights are up to {weights:.3g} from those of the reference, {_must(exact, bound)}")
    same = exact and runs.same_world
    if to_unbroken > (0.0 if same else bound):
        problems.append(f"losses are up to {to_unbroken:.3g} from those of the unbroken run, {_must(same, bound)}")
    return Compared(
        ledger_equal=not others,
        loss_max_diff=loss,
        weights_max_diff=weights,
        unbroken_loss_max_diff=to_unbroken,
        problems=tuple(problems),
    )


def _not_compared(failed: str) -> Compared:
    return Compared(
        ledger_equal=False,
        loss_max_diff=math.inf,
        weights_max_diff=math.inf,
        unbroken_loss_max_diff=math.inf,
        problems=(failed,),
    )


def is_exact(config: RunConfig) -> bool:
    """Whether the same worlds give the same bits."""
    return config.cluster.device == "cpu" or config.train.deterministic


def check_promises(recoveries: Sequence[Recovery], config: RunConfig) -> Iterator[str]:
    """What the run itself must have done about each fault."""
    scribe_struck = [one.t for one in recoveries if one.fault.kind is Kind.KILL_SCRIBE]
    for recovery in recoveries:
        fault = recovery.fault
        if recovery.recovery_s is None:
            yield f"{fault}: {_tell_what_never_came(recovery)}"
        limit = _most_replayed(recovery, config.checkpoint.snapshot_every)
        if any(0.0 <= recovery.t - t < SCRIBE_BACK_S for t in scribe_struck):
            continue
        if limit is not None and recovery.steps_replayed > limit:
            yield f"{fault}: {recovery.steps_replayed} steps were done again, more than {limit}"
        if recovery.late_s > MOST_LATE_S:
            yield f"{fault}: was seen to be due {recovery.late_s:.1f} s late, at step {recovery.step}"


def _most_replayed(recovery: Recovery, every: int | str | None) -> int | None:
    """None: there is no limit. Snapshots that were left out, as rows take longer to disk than steps, are told of."""
    if recovery.fault.kind is Kind.ADD_NODE:
        return 0
    if not isinstance(every, int):
        return None
    return every * (2 + recovery.left_out) if recovery.left_out else every + _SETTLING


def _tell_what_never_came(recovery: Recovery) -> str:
    if recovery.fault.kind is Kind.ADD_NODE:
        return "the run ended before it had joined"
    return "training was held up" if recovery.slowest else "the run did not recover from it"


def tell_missed(faults: Sequence[Fault]) -> Iterator[str]:
    """What the run was not struck by."""
    for fault in faults:
        yield f"{fault}: the run ended before it could be struck"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    compared: Compared
    recoveries: tuple[Recovery, ...]
    problems: tuple[str, ...]  # of both

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.NOT_VERIFIED if self.problems else ExitCode.DONE

    def to_json(self) -> dict[str, Any]:
        """A distance that is none, as between runs of which one has failed, is null."""
        compared = self.compared
        return {
            "format": 1,
            "verdict": "fail" if self.problems else "pass",
            "problems": list(self.problems),
            "ledger_equal": compared.ledger_equal,
            "loss_max_diff": _finite(compared.loss_max_diff),
            "weights_equal": compared.weights_max_diff == 0.0,
            "unbroken_loss_max_diff": _finite(compared.unbroken_loss_max_diff),
            "faults": [_fault_json(recovery) for recovery in self.recoveries],
        }


def _other_steps(runs: Runs) -> Iterator[str]:
    step = find_other_step(runs.broken, runs.unbroken, runs.voided)
    if step is not None:
        yield f"ledger: step {step} is another one than in the unbroken run"
    step = find_other_step(runs.broken, runs.reference)
    if step is not None:
        yield f"ledger: step {step} is another one than in the reference"


def _must(exact: bool, bound: float) -> str:
    return "and must be the same bit for bit" if exact else f"and may be {bound:g}"


def _finite(distance: float) -> float | None:
    return distance if math.isfinite(distance) else None


def _fault_json(recovery: Recovery) -> dict[str, Any]:
    return {
        "fault": str(recovery.fault),
        "step": recovery.step,
        "recovery_s": recovery.recovery_s,
        "steps_replayed": recovery.steps_replayed,
        "labels": recovery.labels,
        "slowest_step": recovery.slowest,
        "late_s": round(recovery.late_s, 3),
    }
