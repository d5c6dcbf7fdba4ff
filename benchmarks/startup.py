"""From the command to the first finished optimizer step: Longhaul, torchrun of a bare DeepSpeed script, Ray Train V2.

No Ray runs before, the data is prepared, all train the quickstart's model on 2 CPU ranks. The ways take turns, in
another order each round; the first round warms caches and does not count. Longhaul's time is taken when the step's row
appears in metrics.jsonl, the peers' inside rank 0. Keep the machine quiet. Run:

    python benchmarks/startup.py --rounds 5 --peer-env /tmp/peers
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bare_deepspeed import QUICKSTART
from peer_env import peer_python
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
LONGHAUL = str(Path(sys.executable).parent / "longhaul")
SHORT = ["train.steps=2", "schedule.warmup_steps=1", "evaluate.max_batches=1", "tracking.wandb.mode=offline"]
POLL_S = 0.005
TIMEOUT_S = 300.0
MOST_BEHIND_TORCHRUN_S = 5.0
MOST_OF_RAY_TRAIN = 0.5


@dataclass(frozen=True)
class Way:
    """One way to start. `first_step` gives the wall time of the first step once it is known."""

    name: str
    command: list[str]
    first_step: Callable[[], float | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="that count; one more comes before")
    parser.add_argument("--peer-env", type=Path, default=Path("peer-env"), help="folder for the peers' environment")
    options = parser.parse_args()
    python = peer_python(options.peer_env)
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        work = Path(folder)
        _run_to_end([LONGHAUL, "prepare", str(QUICKSTART)], work)
        seconds: dict[str, list[float]] = {"longhaul": [], "torchrun": [], "ray train": []}
        for turn in range(options.rounds + 1):
            ways = [_longhaul(work, turn), _torchrun(python, work, turn), _ray_train(python, work, turn)]
            for place in range(len(ways)):
                way = ways[(place + turn) % len(ways)]
                taken = time_first_step(way, work)
                if turn:
                    seconds[way.name].append(taken)
    show(seconds)


def time_first_step(way: Way, work: Path) -> float:
    """Start, wait for the first step, let the command end by itself."""
    log = work / f"{way.name}.log"
    began, found = time.time(), None
    with log.open("wb") as output:
        process = subprocess.Popen(way.command, cwd=work, stdout=output, stderr=subprocess.STDOUT, env=_environment())
        while process.poll() is None and time.time() - began < TIMEOUT_S:
            found = found or way.first_step()
            time.sleep(POLL_S if found is None else 0.2)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()
    found = found or way.first_step()
    if process.returncode or found is None:
        raise SystemExit(f"{way.name} ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
    return found - began


def show(seconds: dict[str, list[float]]) -> None:
    table = Table(title="command to first optimizer step, in seconds", title_justify="left")
    for heading in ("way", "median", "least", "most", "rounds"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for name, values in seconds.items():
        table.add_row(name, f"{median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}", str(len(values)))
    ours, torchrun, ray_train = (median(values) for values in seconds.values())
    table.add_section()
    table.add_row("longhaul - torchrun", f"{ours - torchrun:+.2f}", "", f"{MOST_BEHIND_TORCHRUN_S:.2f} asked", "")
    table.add_row("longhaul / ray train", f"{ours / ray_train:.2f}", "", f"{MOST_OF_RAY_TRAIN:.2f} asked", "")
    Console().print(table)


# ---- the ways ----


def _longhaul(work: Path, turn: int) -> Way:
    name = f"startup-{turn}"
    metrics = work / "runs" / name / "metrics.jsonl"

    def first_step() -> float | None:
        """Now, once the file has a row of a step below its head."""
        if not metrics.exists():
            return None
        rows = [json.loads(line) for line in metrics.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return time.time() if any("loss" in row for row in rows) else None

    return Way("longhaul", [LONGHAUL, "run", str(QUICKSTART), f"name={name}", *SHORT], first_step)


def _torchrun(python: str, work: Path, turn: int) -> Way:
    file = work / f"torchrun-{turn}.json"
    launcher = [python, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return Way("torchrun", [*launcher, *_peer_arguments("bare_deepspeed.py", file)], lambda: _read_time(file))


def _ray_train(python: str, work: Path, turn: int) -> Way:
    file = work / f"ray-train-{turn}.json"
    return Way("ray train", [python, *_peer_arguments("ray_train_peer.py", file)], lambda: _read_time(file))


def _peer_arguments(script: str, first_step: Path) -> list[str]:
    return [str(HERE / script), "--steps", "2", "--first-step", str(first_step)]


def _read_time(file: Path) -> float | None:
    return float(json.loads(file.read_text())["t"]) if file.exists() and file.stat().st_size else None


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "WANDB_API_KEY"}


def _run_to_end(command: list[str], work: Path) -> None:
    subprocess.run(command, cwd=work, env=_environment(), check=True, timeout=TIMEOUT_S)


if __name__ == "__main__":
    main()
