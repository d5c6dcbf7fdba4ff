"""What W&B shows of a run: rows of metrics.jsonl under the names people know, as one row of W&B a step, in order.

Comes after rows.py; wandb.py does the sending. W&B cannot change a row, and drops steps at or below its last one."""

from collections.abc import Callable
from typing import Any

from orchestrator.tracking.rows import Row

Values = dict[str, Any]

_NAMES = {
    "generation": "world/generation",
    "world_size": "world/size",
    "step_s": "time/step",
    "data_wait_s": "time/data_wait",
    "pause_s": "time/snapshot",
    "snapshots_skipped": "progress/snapshots_skipped",
    "decode_s": "time/decode",
    "read_bytes": "data/read_bytes",
    "fetched_bytes": "data/fetched_bytes",
    "cache_hits": "data/cache_hits",
    "cache_misses": "data/cache_misses",
    "holes": "data/holes",
    "epoch": "progress/epoch",
    "tokens_per_s": "throughput/recent/tokens_per_sec",
    "samples_per_s": "throughput/recent/samples_per_sec",
    "mfu": "throughput/mfu",
    "memory_peak_gb": "memory/peak_gb",
    "t": "_timestamp",  # W&B's own name: when it happened, not when it was sent
}
_COUNTED = ("tokens", "samples")
_OF_AN_UPDATE = ("loss", "grad_norm")
MOST_CURVES = 100  # of one metric that has a value for each class


class StepCopy:
    """Logs steps in order, each once; W&B merges what is logged at its last step. Of a repeated step the first stays.

    What is about a step that has yet to be trained waits for it: W&B would refuse the rest of that step in the run's
    next life."""

    def __init__(self, log: Callable[..., None], first_step: int) -> None:
        self._log = log
        self._server_lacks = first_step  # and what comes after it
        self.first_logged: int | None = None
        self.last_logged: int | None = None
        self._notes: list[str] = []  # of the last step
        self._waiting: Values = {}
        self._waiting_step = -1
        self._counted_to = -1
        self._totals: dict[str, float] = dict.fromkeys(_COUNTED, 0)

    def take(self, row: Row) -> None:
        match row.get("kind", "step"):
            case "step":
                self._take_step(row["step"], step_values(row) | self._progress(row))
            case "evaluation":
                self._take_beside(row["step"], evaluation_values(row))
            case "system":
                self._take_beside(row["step"], system_values(row))
            case "note":
                self._take_note(row["text"], row["t"])
            case "trouble":
                self._take_note(f"step {row['step']}: {row['text']}", row["t"])

    def finish(self, *, done: bool) -> None:
        """Log what has waited. When the run may go on it joins the last step, for people to see."""
        if not self._waiting:
            return
        if done:
            self._begin(self._waiting_step, self._waiting)
        elif self.last_logged is not None:
            self._log(self._waiting, step=self.last_logged)

    def _take_step(self, step: int, values: Values) -> None:
        if step < self._server_lacks:
            self._notes.clear()  # they are on the server too
        elif self.last_logged is None or step > self.last_logged:
            self._begin(step, self._waiting | values)
            self._waiting = {}

    def _take_beside(self, step: int, values: Values) -> None:
        if step == self.last_logged:
            self._log(values, step=step)
        elif step >= self._server_lacks and (self.last_logged is None or step > self.last_logged):
            self._waiting |= values
            self._waiting_step = step

    def _take_note(self, text: str, t: float) -> None:
        self._notes.append(text)
        if self.last_logged is not None:
            self._log({"note": "; ".join(self._notes), "_timestamp": t}, step=self.last_logged)

    def _begin(self, step: int, values: Values) -> None:
        if self.last_logged is not None:
            self._notes.clear()  # they went with the step before
        self._log(values | ({"note": "; ".join(self._notes)} if self._notes else {}), step=step)
        self.first_logged = step if self.first_logged is None else self.first_logged
        self.last_logged = step

    def _progress(self, row: Row) -> Values:
        """How much the run has been fed, for people who compare runs by that."""
        if row["step"] > self._counted_to:
            self._counted_to = row["step"]
            for what in _COUNTED:
                self._totals[what] += row.get(what, 0)
        return {f"progress/{what}": self._totals[what] for what in _COUNTED if what in row}


def step_values(row: Row) -> Values:
    """A step under the names people know from other trainers. A void step is a gap in the curves of the loss."""
    untold = ("step",) if row.get("samples", 1) else ("step", *_OF_AN_UPDATE)
    values = {_NAMES.get(name, f"train/{name}"): value for name, value in row.items() if name not in untold}
    for what in _COUNTED:
        if what in row and row.get("step_s"):
            speed = row[what] / row["step_s"]
            values[f"throughput/{what}_per_sec"] = speed
            if "world_size" in row:
                values[f"throughput/device/{what}_per_sec"] = speed / row["world_size"]
    return values


def evaluation_values(row: Row) -> Values:
    """A curve for each number; a matrix, or the values of more classes than people look at, stays in metrics.jsonl."""
    about = ("step", "generation", "kind", "split")
    values = {_NAMES.get(name, f"{row['split']}/{name}"): value for name, value in row.items() if name not in about}
    lists = {name: values.pop(name) for name, value in list(values.items()) if isinstance(value, list)}
    for name, value in lists.items():
        if len(value) <= MOST_CURVES and not any(isinstance(one, list) for one in value):
            values |= {f"{name}/{number}": one for number, one in enumerate(value) if one is not None}
    return values


def system_values(row: Row) -> Values:
    about = ("step", "generation", "kind", "node")
    node = row["node"].replace(".", "-")  # W&B takes a dot for a path into the value
    return {_NAMES.get(name, f"system/{node}/{name}"): value for name, value in row.items() if name not in about}
