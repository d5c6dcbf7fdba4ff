"""The verdict for people: a row a fault, what was compared, and what did not hold."""

import math

from rich.table import Table

from launch.chaos.judge import Verdict
from launch.chaos.recoveries import Recovery
from launch.screen import Screen

LABELS = ("detect", "abort", "re-form", "restore", "replay")


def show_verdict(verdict: Verdict, screen: Screen) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("fault", overflow="fold")
    for heading in ("recovery", *LABELS, "replayed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for recovery in verdict.recoveries:
        table.add_row(*_cells(recovery))
    screen.console.print(table, highlight=False)
    compared = verdict.compared
    screen.say(f"ledger: {'equal' if compared.ledger_equal else 'not equal'}")
    screen.say(f"losses: {_say(compared.loss_max_diff)} to the reference")
    screen.say(f"        {_say(compared.unbroken_loss_max_diff)} to the unbroken run")
    screen.say(f"final weights: {_say(compared.weights_max_diff)} to the reference")
    for problem in verdict.problems:
        screen.console.print(problem, style="red", markup=False, highlight=False)
    held = "every promise held" if not verdict.problems else "a promise broke"
    screen.console.print(held, style="red" if verdict.problems else "green")


def _cells(recovery: Recovery) -> list[str]:
    took = (
        "never"
        if recovery.recovery_s is None
        else "no pause"
        if not recovery.labels
        else f"{recovery.recovery_s:.3f} s"
    )
    labels = [f"{recovery.labels[name]:.3f}" if name in recovery.labels else "" for name in LABELS]
    return [str(recovery.fault), took, *labels, str(recovery.steps_replayed)]


def _say(distance: float) -> str:
    if distance == 0.0:
        return "equal bit for bit"
    return f"up to {distance:.3g}" if math.isfinite(distance) else "not comparable"
