"""How a run ends: the last word, as told by its ranks, its people, or what it needs and no longer has. Pure."""

from collections.abc import Sequence

from orchestrator.control.blame import Fault
from orchestrator.control.decisions import Finish
from orchestrator.control.faults import describe_problems
from orchestrator.control.jobs import PreparerReport, RankEnd
from orchestrator.control.seen import Limits, Seen, StopWish
from orchestrator.core.words import ExitCode, RunState


def stop_at_once() -> Finish:
    reason = "stopped at once; steps since the last checkpoint are given up"
    return Finish(state=RunState.STOPPED, exit_code=ExitCode.STOPPED, reason=reason)


def stop_between_worlds(wish: StopWish) -> Finish:
    return Finish(state=RunState.STOPPED, exit_code=_code_of(wish), reason="stopped while no ranks trained")


def give_up_waiting(offered: int, seen: Seen, limits: Limits) -> Finish:
    reason = (
        f"{offered} of cluster.nodes.min={limits.min_nodes} nodes after "
        f"cluster.start_timeout_s={limits.start_timeout_s:g}: {seen.why_waiting}"
    )
    return Finish(state=RunState.FAILED, exit_code=ExitCode.FAILED, reason=reason)


def fail_by(fault: Fault) -> Finish:
    """By the first cause. What says that the run can go on later (a store that is down) has not failed it."""
    first = min((p for p in fault.ends_run if not p.collateral), key=lambda p: p.t)
    return Finish(
        state=RunState.STOPPED if first.exit_code == ExitCode.PREEMPTED else RunState.FAILED,
        exit_code=ExitCode(first.exit_code),
        reason=describe_problems(fault.ends_run),
        step=first.step,
        culprits=fault.culprits,
    )


def spend_budget(failures: int, reason: str, culprits: tuple[int, ...], limits: Limits) -> Finish:
    text = (
        f"{reason}\n{failures} failures within elastic.forget_after_s={limits.forget_after_s:g} "
        f"are above elastic.restart_budget={limits.restart_budget}"
    )
    return Finish(state=RunState.FAILED, exit_code=ExitCode.FAILED, reason=text, culprits=culprits)


def cannot_prepare(report: PreparerReport, step: int | None = None) -> Finish:
    """What says that the run can go on later (a store that is down) has not failed it."""
    return Finish(
        state=RunState.STOPPED if report.exit_code == ExitCode.PREEMPTED else RunState.FAILED,
        exit_code=ExitCode(report.exit_code),
        reason=f"preparing ahead failed at segment {report.segments} of {report.expected}: {report.problem}",
        step=step,
    )


def end_apart(ends: Sequence[RankEnd | None]) -> Finish:
    return Finish(state=RunState.FAILED, exit_code=ExitCode.FAILED, reason=f"ranks ended apart: {ends}")


def end_together(end: RankEnd, seen: Seen, wish: StopWish) -> Finish:
    """A reason says why a run is done early; otherwise it means that what the ranks need is away for now."""
    if end.state is RunState.DONE:
        return Finish(state=end.state, exit_code=ExitCode.DONE, reason=end.reason, step=end.step)
    if seen.unprepared is not None:
        return cannot_prepare(seen.unprepared, end.step)
    code = ExitCode.PREEMPTED if end.reason else _code_of(wish)
    return Finish(state=end.state, exit_code=code, reason=end.reason, step=end.step)


def _code_of(wish: StopWish) -> ExitCode:
    return ExitCode.PREEMPTED if wish is StopWish.PREEMPTED else ExitCode.STOPPED


def sum_ends(ends: Sequence[RankEnd | None]) -> RankEnd | None:
    """All at one place, each reason once; None when they are not."""
    told = [end for end in ends if end is not None]
    places = {(end.state, end.step, end.back_to) for end in told}
    if len(told) < len(ends) or len(places) != 1:
        return None
    [(state, step, back_to)] = places
    reason = "\n".join(sorted({end.reason for end in told if end.reason}))
    return RankEnd(state=state, step=step, reason=reason, back_to=back_to)
