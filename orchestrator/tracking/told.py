"""How far a run is written down. What a state in memory has beyond that nobody could prove: its rows may have died with
the node that was to send them.

Comes after scribe.py, which writes; the controller asks before a world goes on from memory (control/start.py)."""

from pathlib import Path
from statistics import median

from orchestrator.storage.lines import read_last_lines
from orchestrator.tracking.keys import read_keys
from orchestrator.tracking.rows import LEDGER_FILE, METRICS_FILE

_TAIL_BYTES = 1 << 16  # longer than what can be on its way


def count_told_steps(run_dir: Path, *, with_keys: bool) -> int:
    """Steps whose rows are in the ledger; `with_keys`, also what each rank has fed into them."""
    tail = [row for row in read_last_lines(run_dir / LEDGER_FILE, _TAIL_BYTES) if "step" in row]  # without the head
    newest = max((row["generation"] for row in tail), default=0)
    rows = [row for row in tail if row["generation"] == newest]
    if not rows:
        return 0
    keys = read_keys(run_dir, [row["step"] for row in rows]) if with_keys else {}
    for row in rows if with_keys else ():
        if sum(map(bool, keys.get(row["step"], ()))) < row["count"]:
            return int(row["step"])
    return int(rows[-1]["step"]) + 1


def measure_pace(run_dir: Path) -> float:
    """Seconds that a step took lately; 0 before the first one."""
    tail = read_last_lines(run_dir / METRICS_FILE, _TAIL_BYTES)
    return median([float(row["step_s"]) for row in tail if "step_s" in row] or [0.0])
