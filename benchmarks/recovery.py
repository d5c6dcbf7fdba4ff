"""What faults cost: Longhaul beside Ray Train V2, the quickstart's model on 2 CPU ranks of this machine.

Ranks: rank 1 is killed again and again, with a warm spare; the peer's worker once in each of its runs. Controller:
killed, and the slowest of the next steps held against the median. Nodes (root; hosts made of this machine, a rank
each): one of three is killed, and one comes. One setting for all; snapshots are as frequent as `auto` says. Keep the
machine quiet. Run:

    python benchmarks/recovery.py --kills 9 --peer-env /tmp/peers [--only ranks,controller,nodes]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bare_deepspeed import QUICKSTART
from peer_env import peer_python
from rich.console import Console
from rich.table import Table

from launch.chaos.drills import Plan, train_broken
from launch.chaos.faults import parse_faults
from launch.chaos.possible import Nodes, check_possible, needs_hosts
from launch.chaos.recoveries import Recovery
from launch.loading import load_checked
from launch.screen import Screen

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # made-up hosts are not installed with Longhaul
SETTINGS = [
    "evaluate.every_steps=null", "checkpoint.keep.best=0", "checkpoint.every_steps=200", "schedule.name=constant",
    "schedule.warmup_steps=0", "elastic.heartbeat_timeout_s=5",
]  # fmt: skip
NODES = ["cluster.nodes.min=1", "cluster.nodes.max=3", "cluster.ranks_per_node=1"]
APART, NODES_APART = 30, 130  # steps between faults
PEER_TIMEOUT_S = 300.0
MOST_RANK_S, MOST_NODE_S, MOST_JOIN_S, MOST_SLOWER, LEAST_AHEAD = 0.5, 7.0, 0.5, 2.0, 20.0


@dataclass(frozen=True)
class Line:
    """Of the table: values in seconds or, of a ratio, without a unit."""

    what: str
    values: Sequence[float]
    asked: str = ""
    replayed: Sequence[int] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=9)
    parser.add_argument("--peer-runs", type=int, default=3)
    parser.add_argument("--peer-env", type=Path, default=Path("peer-env"), help="folder for the peer's environment")
    parser.add_argument("--nodes", type=int, default=3, help="how often one is killed, and comes back")
    parser.add_argument("--only", default="ranks,controller,nodes")
    options = parser.parse_args()
    parts, lines = options.only.split(","), list[Line]()
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        if "ranks" in parts:
            peers = [run_peer(peer_python(options.peer_env)) for _ in range(options.peer_runs)]
            lines += compare_ranks(break_ranks(Path(folder), options.kills), peers)
        if "controller" in parts:
            lines += [tell_controller(break_run(Path(folder), "controller", "kill controller @ 40", 160, []))]
        if "nodes" in parts:
            lines += tell_nodes(break_nodes(Path(folder), options.nodes))
    show(lines)


def break_ranks(folder: Path, kills: int) -> list[Recovery]:
    faults = "; ".join(f"kill rank 1 @ {APART * number}" for number in range(1, kills + 1))
    return break_run(folder, "ranks", faults, APART * (kills + 1), ["cluster.ranks_per_node=2", "cluster.spares=1"])


def break_nodes(folder: Path, times: int) -> list[Recovery]:
    """What comes back must be warm before it goes again."""
    starts = [40 + NODES_APART * number for number in range(times)]
    faults = "; ".join(f"kill node 2 @ {start}; add node @ {start + 30}" for start in starts)
    return break_run(folder, "nodes", faults, starts[-1] + NODES_APART + 100, NODES)


def break_run(folder: Path, name: str, text: str, steps: int, sets: Sequence[str]) -> list[Recovery]:
    """One run to its end, struck by these faults."""
    places = [f"root={folder}", f"data.work={folder}/work", f"data.train.0.path={folder}/demo", f"name={name}"]
    config = load_checked(QUICKSTART, [], [*places, *SETTINGS, *sets, f"train.steps={steps}"])
    faults = parse_faults(text)
    check_possible(faults, config)
    plan = Plan(
        config=config,
        folder=folder / name,
        faults=faults,
        nodes=Nodes.of(config, faults),
        on_hosts=needs_hosts(config, faults),
    )
    broken = train_broken(plan, Screen())
    if broken.failed:
        raise SystemExit(broken.failed)
    return broken.recoveries


def run_peer(python: str) -> dict[str, float]:
    """{"recovery_s", "steps_lost"} of one kill."""
    command = [python, str(HERE / "ray_train_recovery_peer.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_TIMEOUT_S, check=False)
    if done.returncode:
        raise SystemExit(f"the peer ended with {done.returncode}:\n{done.stderr[-3000:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


# ---- what came of it ----


def seconds_of(recoveries: Sequence[Recovery]) -> list[float]:
    """One that never came is as long as it can be."""
    return [float("inf") if one.recovery_s is None else one.recovery_s for one in recoveries]


def compare_ranks(recoveries: Sequence[Recovery], peers: Sequence[dict[str, float]]) -> list[Line]:
    ours, theirs = seconds_of(recoveries), [peer["recovery_s"] for peer in peers]
    return [
        *tell("rank killed", recoveries, f"{MOST_RANK_S} s", ("detect", "abort", "re-form", "restore", "replay")),
        Line("worker of Ray Train killed", theirs, replayed=[int(peer["steps_lost"]) for peer in peers]),
        Line("Ray Train / Longhaul", [median(theirs) / median(ours)], f"{LEAST_AHEAD:g} times"),
    ]


def tell_controller(recoveries: Sequence[Recovery]) -> Line:
    slower = [one.slowest or float("inf") for one in recoveries]
    return Line("controller killed: slowest step / median", slower, f"below {MOST_SLOWER:g}")


def tell_nodes(recoveries: Sequence[Recovery]) -> list[Line]:
    killed, added = recoveries[::2], recoveries[1::2]
    return [
        *tell("node killed", killed, f"{MOST_NODE_S:g} s", ("detect", "abort", "re-form", "restore", "replay")),
        *tell("node added: pause", added, f"{MOST_JOIN_S} s", ("leave", "re-form", "restore")),
    ]


def tell(what: str, recoveries: Sequence[Recovery], asked: str, labels: Sequence[str]) -> list[Line]:
    """How long, and of what that consists."""
    parts = [Line(f"  {label}", [one.labels[label] for one in recoveries if label in one.labels]) for label in labels]
    return [Line(what, seconds_of(recoveries), asked, [one.steps_replayed for one in recoveries]), *parts]


def show(lines: Sequence[Line]) -> None:
    table = Table(title="what faults cost, in seconds", title_justify="left")
    for heading in ("what", "median", "least", "most", "of", "replayed", "asked"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for line in (line for line in lines if line.values):
        figures = [f"{value:.3f}" for value in (median(line.values), min(line.values), max(line.values))]
        replayed = f"{min(line.replayed)}-{max(line.replayed)}" if line.replayed else ""
        table.add_row(line.what, *figures, str(len(line.values)), replayed, line.asked)
    Console().print(table)


if __name__ == "__main__":
    main()
