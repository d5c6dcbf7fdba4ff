"""`longhaul chaos`: everything that cannot be is refused, then three runs, and what they say about each other."""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.chaos.draw import draw_faults
from launch.chaos.drills import Plan, train_all
from launch.chaos.faults import Fault, parse_faults, say_faults
from launch.chaos.hosts import check_hosts
from launch.chaos.judge import judge
from launch.chaos.possible import Nodes, check_possible, needs_hosts
from launch.chaos.show import show_verdict
from launch.loading import load_checked
from launch.run import check_root, check_sources
from launch.screen import Screen
from launch.signals import LEAVING, heeding
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode
from orchestrator.storage.publish import publish_json


@dataclass(frozen=True, kw_only=True, slots=True)
class ChaosWish:
    """`faults` as text; none: drawn from a seed, `count` of them or until the run ends."""

    faults: str | None = None
    seed: int = 0
    mtbf_s: float = 30.0
    count: int | None = None
    keep: bool = False


def chaos(
    config_path: Path, overlays: Sequence[Path], sets: Sequence[str], wish: ChaosWish, screen: Screen, *, as_json: bool
) -> ExitCode:
    plan = make_plan(load_checked(config_path, overlays, sets), wish, screen)
    with heeding(LEAVING):
        verdict = judge(train_all(plan, screen))
    publish_json(plan.folder / "verdict.json", verdict.to_json())
    if as_json:
        print(json.dumps(verdict.to_json()))
    else:
        show_verdict(verdict, screen)
    if verdict.problems or wish.keep:
        screen.say(f"the three runs: {plan.folder}")
    else:
        shutil.rmtree(plan.folder)
    return verdict.exit_code


def make_plan(config: RunConfig, wish: ChaosWish, screen: Screen) -> Plan:
    stated = parse_faults(wish.faults) if wish.faults is not None else []
    check_possible(stated, config)
    nodes, on_hosts = Nodes.of(config, stated), needs_hosts(config, stated)
    if on_hosts:
        check_hosts(nodes.most + 1)
    check_sources(config.data)
    check_root(Path(config.root))
    folder = Path(config.root) / f"{config.name}-chaos"
    if folder.exists():
        raise BadInput("is there already", where=str(folder), remedy="remove it, or choose another `name=...`")
    screen.say(f"faults: {say_faults(stated) if stated else f'drawn from seed {wish.seed}'}")
    return Plan(config=config, folder=folder, faults=stated or draw(config, wish), nodes=nodes, on_hosts=on_hosts)


def draw(config: RunConfig, wish: ChaosWish) -> Iterable[Fault]:
    faults = draw_faults(config, wish.seed, wish.mtbf_s, wish.count)
    return list(faults) if wish.count is not None else faults
