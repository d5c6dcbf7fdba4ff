"""The rows of metrics.jsonl and ledger.jsonl: what news becomes when the scribe writes it down, and reading it back.

A file keeps every row of every generation; of several rows of one step the one of the highest generation, then the last
one, is the truth. Rows of metrics.jsonl without `kind` are steps. Notes and samples of nodes (kind system) stand at the
step that was the last one when they came."""

import math
from collections.abc import Iterable, Iterator, Mapping
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError
from orchestrator.core.news import (
    CheckpointNews,
    EvaluationNews,
    HolesNews,
    NoteNews,
    StepNews,
    SystemNews,
    TroubleNews,
    VoidedNews,
)
from orchestrator.storage.lines import read_lines

METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "ledger.jsonl"
SKIPS_FILE = "skips.jsonl"
FORMAT = 1

Row = dict[str, Any]
Ints = NDArray[np.int64]


def metrics_row(news: StepNews | EvaluationNews | NoteNews | CheckpointNews | TroubleNews | SystemNews) -> Row:
    if isinstance(news, SystemNews):
        return {"kind": "system", "t": news.t, "node": news.node} | news.metrics
    where: Row = {"step": news.step, "generation": news.generation}
    match news:
        case StepNews():
            return where | {"t": news.t} | news.metrics
        case EvaluationNews():
            return where | {"kind": "evaluation", "t": news.t, "split": news.split} | news.metrics
        case NoteNews():
            return where | {"kind": "note", "origin": "rank", "t": news.t, "text": news.text}
        case CheckpointNews():
            facts = {"folder": news.folder, "seconds": news.seconds, "size_bytes": news.size_bytes}
            return where | {"kind": "checkpoint"} | facts | ({"problem": news.problem} if news.problem else {})
        case TroubleNews():
            return where | {"kind": "trouble", "t": news.t, "what": news.kind, "text": news.describe()}


def ledger_row(news: StepNews) -> Row:
    return {"step": news.step, "generation": news.generation} | news.ledger


def skip_rows(news: HolesNews | VoidedNews) -> list[Row]:
    """A row of skips.jsonl for each sample left out, or for a whole batch; data/ordering/skips.py reads them."""
    if isinstance(news, VoidedNews):
        return [{"step": news.step, "voided": True, "reason": news.reason}]
    return [{"step": news.step} | hole._asdict() for hole in news.holes]


def describe_skip(row: Row) -> str:
    """A row of skips.jsonl for people."""
    if "voided" in row:
        return f"step {row['step']}: its batch is left out of the run: {row['reason']}"
    return f"step {row['step']}: {row['sample']} does not decode and is left out: {row['reason']}"


def lane_of(row: Row) -> tuple[int, str, str]:
    """Rows of one lane are told in the order of their places, so a repeated one is known by its place alone."""
    if row.get("kind") == "system":
        return 0, "system", row["node"]
    return row["generation"], str(row.get("kind", "step")), str(row.get("split", row.get("text", "")))


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


def read_losses(run_dir: Path) -> tuple[Ints, NDArray[np.float64]]:
    """The steps of metrics.jsonl in order, and the true loss of each; 24 bytes a row."""
    steps = (row for row in read_rows(run_dir / METRICS_FILE) if "kind" not in row)
    columns = np.dtype([("step", np.int64), ("generation", np.int64), ("loss", np.float64)])
    found = np.fromiter(((row["step"], row["generation"], row["loss"]) for row in steps), columns)
    true = _true_rows(found["step"], found["generation"])
    return found["step"][true], found["loss"][true]


class Ledger(Mapping[int, Row]):
    """The true ledger row of every step, by step. Kept as columns, 56 bytes a step."""

    COLUMNS = np.dtype([("step", np.int64), ("generation", np.int64), ("count", np.int64), ("digests", "V32")])

    def __init__(self, columns: NDArray[np.void]) -> None:
        self.steps: Ints = columns["step"]
        self.counts: Ints = columns["count"]
        self.digests: NDArray[np.void] = columns["digests"]  # order, then set

    def __getitem__(self, step: int) -> Row:
        at = int(np.searchsorted(self.steps, step))
        if at == self.steps.size or self.steps[at] != step:
            raise KeyError(step)
        return self._row(at)

    def __iter__(self) -> Iterator[int]:
        return map(int, self.steps)

    def __len__(self) -> int:
        return self.steps.size

    def rows(self) -> Iterator[Row]:
        """Step after step."""
        return map(self._row, range(len(self)))

    def _row(self, at: int) -> Row:
        digests = self.digests[at].tobytes().hex()
        step, count = int(self.steps[at]), int(self.counts[at])
        return {"step": step, "order_digest": digests[:32], "set_digest": digests[32:], "count": count}


def read_ledger(run_dir: Path) -> Ledger:
    found = np.fromiter(_ledger_columns(run_dir / LEDGER_FILE), Ledger.COLUMNS)
    return Ledger(found[_true_rows(found["step"], found["generation"])])


def _ledger_columns(path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    number = 0
    try:
        for number, row in enumerate(read_rows(path), start=1):  # noqa: B007 - told when a row cannot be used
            order_digest, set_digest = bytes.fromhex(row["order_digest"]), bytes.fromhex(row["set_digest"])
            if len(order_digest) != 16 or len(set_digest) != 16:
                raise ValueError("a digest has 32 hex digits")  # noqa: TRY301 - told below, with its row
            yield index(row["step"]), index(row["generation"]), index(row["count"]), order_digest + set_digest
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"is damaged at row {number}, or the next: {error!r}",
            where=str(path),
            remedy="what it said is lost: the run cannot be verified",
        ) from error


def _read_digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != 16:
        raise ValueError(f"{text!r} has not 32 hex digits")
    return digest


def _true_rows(steps: Ints, generations: Ints) -> Ints:
    """Where the last row of each step's highest generation stands, by step."""
    order = np.lexsort((generations, steps))  # stable: what came later stays later
    is_last = np.append(np.diff(steps[order]) > 0, True)[: order.size]
    last: NDArray[np.intp] = order[is_last]
    return last


def _truth(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], Row]:
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        if key not in found or row["generation"] >= found[key]["generation"]:
            found[key] = row
    return dict(sorted(found.items()))
