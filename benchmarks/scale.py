"""What faults would cost on 2,048 nodes of 8 ranks at the rates of Llama 3, with the real policy on a simulated clock.

Writes the tables of docs/scale.md. Takes about twenty minutes of one core; nothing is started. Run:

    python benchmarks/scale.py [--days 54] [--repair-hours 12] [--ranks 8] [--seed 1]
"""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from simulated.cluster import FaultKind, SimulatedCluster, Times
from simulated.simulation import Saving, Simulation, Told, draw_faults

from orchestrator.control.seen import Limits

NODES, LEAST, RANKS = 2048, 1792, 8
DAYS = 54.0
RATES: dict[FaultKind, float] = {"rank": 63.0, "node": 324.0, "notice": 79.0}  # 466 in DAYS
SPARES = (0, 1, 2, 8)
SAVINGS = (
    Saving(name="checkpoint every 200 steps", every_steps=200, pause_s=5.0, restore_s=120.0),
    Saving(name="snapshot every 20", every_steps=20, pause_s=0.05),
    Saving(name="every 5", every_steps=5, pause_s=0.05),
    Saving(name="every step", every_steps=1, pause_s=0.05),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=DAYS)
    parser.add_argument("--repair-hours", type=float, default=12.0)
    parser.add_argument(
        "--ranks", type=int, default=RANKS, help="a node; with fewer it takes less, and decides the same"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    times = Times(repair_s=options.repair_hours * 3600)
    until = options.days * 86400
    rates = {kind: count * options.days / DAYS for kind, count in RATES.items()}
    told = []
    for spares in SPARES:
        limits = Limits(min_nodes=LEAST, max_nodes=NODES, spare_nodes=spares, ranks_per_node=options.ranks)
        cluster = SimulatedCluster(NODES + spares, limits, times)
        faults = draw_faults(rates, until, options.seed)
        told.append(Simulation(cluster, limits, times, SAVINGS).run(faults, until))
    show(told, times)


def show(told: Sequence[Told], times: Times) -> None:
    goodput = Table("spare nodes", *(saving.name for saving in SAVINGS), title="goodput")
    for spares, one in zip(SPARES, told, strict=True):
        goodput.add_row(str(spares), *(f"{one.goodput(account, times.step_s):.2%}" for account in one.accounts))
    time = Table(
        "spare nodes", "a world trains", "of its nodes", "pauses: faults", "mean s", "resizes", "mean s", title="time"
    )
    for spares, one in zip(SPARES, told, strict=True):
        faults, resizes = one.pauses_s.get("fault", []), one.pauses_s.get("resize", [])
        time.add_row(
            str(spares), f"{one.trained_s / one.until:.2%}", f"{one.full_s / one.trained_s:.2%}",
            str(len(faults)), f"{mean(faults):.1f}", str(len(resizes)), f"{mean(resizes):.1f}",
        )  # fmt: skip
    spent = [seconds for one in told for seconds in one.decision_s]
    console = Console()
    console.print(goodput, time)
    console.print(f"{len(spent)} decisions: CPU seconds mean {mean(spent):.3f}, longest {max(spent):.3f}")


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


if __name__ == "__main__":
    main()
