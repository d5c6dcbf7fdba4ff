"""The quickstart as a newcomer meets it: packages are installed, all else is cold. In a new folder, with no data yet.

Prints how long it took from the command to the prompt, what it spent the time on, and validation perplexity. Run:

    python benchmarks/quickstart.py
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bare_deepspeed import QUICKSTART
from rich.console import Console
from rich.table import Table

LONGHAUL = str(Path(sys.executable).parent / "longhaul")
MOST_S = 180.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="A.B=C", help="as for longhaul run, for trials")
    options = parser.parse_args()
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_API_KEY"}
    with tempfile.TemporaryDirectory(prefix="quickstart-") as folder:
        command = [LONGHAUL, "run", str(QUICKSTART), *options.overrides]
        began = time.time()
        subprocess.run(command, cwd=folder, env=environment, check=True)
        total_s = time.time() - began
        (run,) = (Path(folder) / "runs").glob("*/metrics.jsonl")
        show(began, total_s, run.parent)


def show(began: float, total_s: float, run: Path) -> None:
    rows = read_lines(run / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row and "kind" not in row]
    perplexities = [row["perplexity"] for row in rows if row.get("kind") == "evaluation"]
    events = {event["event"]: event["t"] for event in read_lines(run / "events" / "g0001.jsonl")}
    table = Table(title="cold quickstart", title_justify="left", show_header=False)
    table.add_row("command to prompt", f"{total_s:.1f} s ({MOST_S:.0f} s asked)")
    table.add_row("command to controller: Ray, data, plan", f"{events['claimed'] - began:.1f} s")
    table.add_row("controller to warm ranks", f"{events['started'] - events['claimed']:.1f} s")
    table.add_row(f"{len(steps)} steps", f"{sum(row['step_s'] for row in steps):.1f} s")
    table.add_row("median step", f"{median(row['step_s'] for row in steps):.3f} s")
    table.add_row("training loss", f"{steps[0]['loss']:.3f} -> {steps[-1]['loss']:.3f}")
    table.add_row("validation perplexity", f"{perplexities[0]:.1f} -> {perplexities[-1]:.1f}")
    Console().print(table)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
