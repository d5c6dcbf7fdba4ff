"""The rows of metrics.jsonl and ledger.jsonl: what news becomes when the scribe writes it down, and reading it back.

A file keeps every row of every generation; of several rows of one step the one of the highest generation, then the last
one, is the truth. Rows of metrics.jsonl without `kind` are steps. Notes and samples of nodes (kind system) stand at the
step that was the last one when they came."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.core.errors import DataError
from orchestrator.core.news import CheckpointNews, EvaluationNews, StepNews, SystemNews
from orchestrator.storage.lines import read_lines

METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "ledger.jsonl"
FORMAT = 1

Row = dict[str, Any]


def metrics_row(news: StepNews | EvaluationNews | CheckpointNews | SystemNews) -> Row:
    if isinstance(news, SystemNews):
        return {"kind": "system", "t": news.t, "node": news.node} | news.metrics
    where: Row = {"step": news.step, "generation": news.generation}
    match news:
        case StepNews():
            return where | {"t": news.t} | news.metrics
        case EvaluationNews():
            return where | {"kind": "evaluation", "t": news.t, "split": news.split} | news.metrics
        case CheckpointNews():
            facts = {"folder": news.folder, "seconds": news.seconds, "size_bytes": news.size_bytes}
            return where | {"kind": "checkpoint"} | facts | ({"problem": news.problem} if news.problem else {})


def ledger_row(news: StepNews) -> Row:
    return {"step": news.step, "generation": news.generation} | news.ledger


def lane_of(row: Row) -> tuple[int, str, str]:
    """Rows of one lane are told in the order of their places, so a repeated one is known by its place alone."""
    if row.get("kind") == "system":
        return 0, "system", row["node"]
    return row["generation"], row.get("kind", "step"), row.get("split", "")


def place_of(row: Row) -> float:
    """Where a row stands in its lane: a node has many samples a step."""
    return float(row["t"]) if row.get("kind") == "system" else int(row["step"])


def read_rows(path: Path) -> Iterator[Row]:
    """Every row as it was written, head left out; nothing when there is no such file yet."""
    lines = read_lines(path)
    head = next(lines, None)
    if head is not None and head.get("format") != FORMAT:
        raise DataError(f"format is {head.get('format')!r}, this Longhaul reads {FORMAT}", where=str(path))
    yield from lines


class Lineage:
    """Which rows of metrics.jsonl the run as it stands descends from.

    A generation that went back to a checkpoint takes over from the earlier ones at its first step. What they had done
    from there on is not part of the run, even if the later one has yet to come that far."""

    def __init__(self, path: Path) -> None:
        first_steps: dict[int, int] = {}
        for row in read_rows(path):
            if "kind" not in row:
                first_steps.setdefault(row["generation"], row["step"])
        self._taken_over_at: dict[int, float] = {}
        step = math.inf
        for generation in sorted(first_steps, reverse=True):
            self._taken_over_at[generation] = step
            step = min(step, first_steps[generation])

    def holds(self, row: Row) -> bool:
        """What was told of a step before it began is still true when it was done again."""
        step: int = row["step"]
        taken_over_at = self._taken_over_at.get(row["generation"], math.inf)
        if "kind" not in row:
            return step < taken_over_at
        return row["kind"] == "note" or step <= taken_over_at


def read_true_rows(run_dir: Path) -> Iterator[Row]:
    """The rows of metrics.jsonl that the run as it stands descends from; its steps come in order, each once."""
    lineage = Lineage(run_dir / METRICS_FILE)
    return (row for row in read_rows(run_dir / METRICS_FILE) if lineage.holds(row))


def read_metrics(run_dir: Path) -> list[Row]:
    """The true row of every step, by step."""
    steps = (row for row in read_rows(run_dir / METRICS_FILE) if "kind" not in row)
    return list(_truth(steps, "step").values())


def read_evaluations(run_dir: Path) -> list[Row]:
    """The true row of every evaluation, by step and split."""
    evaluations = (row for row in read_rows(run_dir / METRICS_FILE) if row.get("kind") == "evaluation")
    return list(_truth(evaluations, "step", "split").values())


def read_ledger(run_dir: Path) -> dict[int, Row]:
    """The true ledger row of every step, by step."""
    return {step: row for (step,), row in _truth(read_rows(run_dir / LEDGER_FILE), "step").items()}


def _truth(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], Row]:
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        if key not in found or row["generation"] >= found[key]["generation"]:
            found[key] = row
    return dict(sorted(found.items()))
