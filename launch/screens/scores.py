"""An evaluation as tables for people."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.train.evaluation.classes import ClassScores
from orchestrator.train.evaluation.scores import name_class
from orchestrator.train.evaluation.validation import Evaluation

MOST_CLASSES = 20


def draw_evaluation(evaluation: Evaluation, names: Sequence[str]) -> RenderableType:
    """One number a line; then a line a class."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in evaluation.values.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.6g}")
    parts: list[RenderableType] = [table]
    if isinstance(evaluation.scores, ClassScores):
        parts += ["", *_draw_classes(evaluation.scores, names)]
    return Group(*parts, *(Text(note, style="yellow") for note in evaluation.notes))


def _draw_classes(scores: ClassScores, names: Sequence[str]) -> Sequence[RenderableType]:
    """When not all can be shown, those with the lowest F1."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("class", overflow="fold")
    for column in ("samples", "precision", "recall", "f1", "roc_auc"):
        table.add_column(column, justify="right")
    present = [number for number, count in enumerate(scores.counts) if count]
    lowest = sorted(present, key=lambda number: scores.f1[number] or 0.0)[:MOST_CLASSES]
    for number in sorted(lowest):
        cells = [scores.precision[number], scores.recall[number], scores.f1[number], scores.roc_auc[number]]
        told = ["" if cell is None else f"{cell:.4f}" for cell in cells]
        table.add_row(Text(name_class(number, names)), f"{scores.counts[number]:,}", *told)
    left = len(present) - len(lowest)
    return [table, Text(f"and {left:,} classes with a higher f1", style="dim")] if left else [table]
