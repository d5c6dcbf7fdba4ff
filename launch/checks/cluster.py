"""A cluster: every node looked at by itself, and what only shows between nodes. Runs as a driver on one of them.

Nodes that do not answer are a problem of their own and are left out of what follows."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from launch.checks.alike import check_alike
from launch.checks.check import Check, Checkup
from launch.checks.clocks import check_clocks, measure_offset, tell_time
from launch.checks.folders import nearest_folder
from launch.checks.links import check_links, check_names, close_doors, open_door, pairs_to_try, try_doors
from launch.checks.machine import MachineReport, look_at_machine
from launch.checks.shared_root import answer_token, check_shared_root, left_token
from launch.environment import has_wandb_key
from orchestrator.control.connect import NodeFacts, alive_nodes, connected, own_node
from orchestrator.control.visit import Silence, Visits
from orchestrator.core.clock import Clock, SystemClock

ASK_TIMEOUT_S = 30.0  # enough for Ray to start a process on a busy node
LOOK_TIMEOUT_S = 120.0  # the imports of a cold environment are the longest part

Answer = TypeVar("Answer")


class Askable(Protocol):
    """orchestrator.control.visit.Visits, or a fake."""

    nodes: dict[str, NodeFacts]

    def ask(self, questions: Mapping[str, Callable[[], Answer]], timeout_s: float) -> dict[str, Answer | Silence]: ...


def check_cluster(address: str, root: Path) -> Checkup:
    """`address` as Ray knows it on this node, `root` as all nodes shall see it. Raises ClusterError."""
    with connected(address):
        return check_nodes(Visits(alive_nodes()), root.absolute(), has_wandb_key=has_wandb_key(), clock=SystemClock())


def check_nodes(visits: Askable, root: Path, *, has_wandb_key: bool, clock: Clock) -> Checkup:
    awake = Awake(visits)
    addresses = {node: address for node, (_, address) in awake.ask_all(own_node).items()}
    reports = awake.ask_all(partial(look_at_machine, root, has_wandb_key=has_wandb_key), LOOK_TIMEOUT_S)
    across = check_between(awake, root, reports, addresses, clock) if len(reports) > 1 else []
    by_node: dict[str, list[Check]] = {node: [] for node in visits.nodes}
    for node, report in reports.items():
        by_node[node] += [*report.checks, check_offer(visits.nodes[node], len(report.gpus))]
    for node, silence in awake.silent.items():
        by_node[node].append(check_silence(silence))
    return Checkup(by_node, across)


def check_between(
    awake: "Awake", root: Path, reports: Mapping[str, MachineReport], addresses: Mapping[str, str], clock: Clock
) -> list[Check]:
    """What only shows when nodes are held against each other."""
    return [
        *check_alike(reports),
        *_look_at_root(awake, root),
        *_look_at_clocks(awake, clock),
        *_look_at_network(awake, addresses),
    ]


class Awake:
    """The nodes that have answered so far. Who falls silent is noted and not asked again."""

    def __init__(self, visits: Askable) -> None:
        self._visits = visits
        self.nodes = list(visits.nodes)
        self.silent: dict[str, Silence] = {}

    def ask(self, questions: Mapping[str, Callable[[], Answer]], timeout_s: float = ASK_TIMEOUT_S) -> dict[str, Answer]:
        asked = {node: question for node, question in questions.items() if node in self.nodes}
        answers: dict[str, Answer] = {}
        for node, answer in self._visits.ask(asked, timeout_s).items():
            if isinstance(answer, Silence):
                self.silent[node] = answer
                self.nodes.remove(node)
            else:
                answers[node] = answer
        return answers

    def ask_all(self, question: Callable[[], Answer], timeout_s: float = ASK_TIMEOUT_S) -> dict[str, Answer]:
        return self.ask(dict.fromkeys(self.nodes, question), timeout_s)


# ---- a node by itself ----


def check_silence(silence: Silence) -> Check:
    remedy = (
        "is the node up, and the same Longhaul installed in the Python that its Ray runs on? its Ray logs tell more"
    )
    return Check("problem", "answer", silence.why, remedy)


def check_offer(node: NodeFacts, driver_gpus: int) -> Check:
    """What Ray gives away is told to it, or guessed, when it is started on a node."""
    detail = f"{node.cpus} CPUs and {node.gpus} GPUs"
    if node.gpus != driver_gpus:
        remedy = f"start Ray there with --num-gpus={driver_gpus}, unless the others are not for you"
        return Check("warning", "Ray offers", f"{detail}; the driver has {driver_gpus} GPUs", remedy)
    return Check("ok", "Ray offers", detail)


# ---- looking at several nodes ----


def _look_at_root(awake: Awake, root: Path) -> list[Check]:
    folder = nearest_folder(root)
    try:
        with left_token(folder) as token:
            marks = {node: f"{i}" for i, node in enumerate(awake.nodes)}
            reasons = awake.ask({node: partial(answer_token, token, mark) for node, mark in marks.items()})
            unseen = {
                node: "what it writes there is not seen here"
                for node in reasons
                if not token.answer_path(marks[node]).exists()
            }
    except OSError as error:
        return [
            Check("problem", "same root", f"nothing can be written in {folder}: {error.strerror}", "make it writable")
        ]
    return check_shared_root(root, {node: why or unseen.get(node, "") for node, why in reasons.items()})


def _look_at_clocks(awake: Awake, clock: Clock) -> list[Check]:
    measured = {node: measure_offset(partial(_ask_time, awake, node), clock) for node in list(awake.nodes)}
    offsets = {node: offset for node, offset in measured.items() if offset is not None}
    return [check_clocks(offsets)] if offsets else []


def _ask_time(awake: Awake, node: str) -> float | None:
    return awake.ask({node: tell_time}).get(node)


def _look_at_network(awake: Awake, addresses: Mapping[str, str]) -> list[Check]:
    doors = awake.ask({node: partial(open_door, address) for node, address in addresses.items()})
    try:
        pairs = pairs_to_try(list(doors))
        tried = awake.ask({a: partial(try_doors, {b: doors[b] for b in others}) for a, others in pairs.items()})
    finally:
        awake.ask_all(close_doors)
    reasons = {(a, b): why for a, others in tried.items() for b, why in others.items()}
    return [*check_names(doors), *check_links(doors, reasons)] if reasons else []
