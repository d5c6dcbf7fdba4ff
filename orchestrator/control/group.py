"""Placement groups: one of one bundle per node. A pending group is how the job asks for a node, a ready one is a node.

Groups are detached and named by run, so that a new controller finds them; whoever ends the run removes them. A cluster
that has just lost a node may take long to answer, so a thread asks it, and the controller takes what that saw last."""

import logging
import secrets
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # of each node there is no other way to know
from ray._private.state import state as cluster_state  # nor which of them are being drained
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from orchestrator.control.bell import Bell
from orchestrator.control.jobs import Notice, RunHandle
from orchestrator.tracking.now import NodeOffer

log = logging.getLogger(__name__)
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0  # between two looks: longer while nothing changes
DRAINED = "its cluster drains it"


@dataclass(frozen=True, slots=True)
class ReadyNode:
    group: PlacementGroup
    node_id: str
    host: str


@dataclass(frozen=True, slots=True)
class Wish:
    """How many nodes there should be, those that are in use, and the hosts of which no further one may be."""

    nodes: int
    used: frozenset[str] = frozenset()  # ids
    not_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Look:
    """What the thread saw last."""

    ready: tuple[ReadyNode, ...] = ()
    offers: tuple[NodeOffer, ...] = ()
    draining: Mapping[str, Notice] = field(default_factory=dict)  # by host
    hosts: Mapping[str, str] = field(default_factory=dict)  # by the name that a machine gives itself


class Groups:
    """The groups of one run: as many asked for as are wished, kept one to a node. The bell is rung when the thread sees
    something new."""

    def __init__(self, run: RunHandle, bundle: dict[str, float], bell: Bell) -> None:
        self._run, self._bundle, self._bell = run, bundle, bell
        self._wish: Wish | None = None  # nobody has said yet what is to become of those that there are
        self._kept: dict[str, str] = {}  # by node, the group that came first
        self._given_back: set[str] = set()  # nodes whose groups are about to be removed
        self._lock = threading.Lock()  # of _given_back and look
        self.look = Look()
        self._woken, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wish(self, wish: Wish) -> None:
        if wish != self._wish:
            self._wish = wish
            self._woken.set()

    def give_back(self, node_ids: Collection[str]) -> None:
        """From now on these nodes are not seen any more, unless another group comes to lie there."""
        with self._lock:
            self._given_back |= set(node_ids)
            self._show(self.look)
        self._woken.set()

    def end(self, timeout_s: float = 5.0) -> None:
        """Give everything back."""
        self._ended.set()
        self._woken.set()
        self._thread.join(timeout_s)
        remove_groups(self._run)

    def _show(self, look: Look) -> None:
        self.look = replace(look, ready=tuple(node for node in look.ready if node.node_id not in self._given_back))

    def _keep_looking(self) -> None:
        pause_s = SHORTEST_PAUSE_S
        while not self._ended.is_set():
            before = self.look
            try:
                if self._wish is not None:
                    self._look_round(self._wish)
            except Exception:  # the boundary: a cluster that cannot answer now is asked again
                log.exception("the cluster does not say what it has")
            if self.look != before:
                self._bell.ring()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if self.look == before else SHORTEST_PAUSE_S
            if self._woken.wait(pause_s):
                self._woken.clear()
                pause_s = SHORTEST_PAUSE_S

    def _look_round(self, wish: Wish) -> None:
        with self._lock:
            leaving = set(self._given_back)
        nodes = ray.nodes()
        hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
        groups = list_groups(self._run)
        ready = self._sort_out(groups, hosts, wish, leaving)
        missing = wish.nodes - len(groups)
        if missing < 0:
            ready = self._trim(groups, -missing, ready, wish)
        elif missing > 0:
            away = {node_id for node_id, host in hosts.items() if host in wish.not_on}
            self._ask(missing, away | {node.node_id for node in ready})
        draining = {hosts[node_id]: _notice(ms) for node_id, ms in _list_draining().items() if node_id in hosts}
        offered = offers(self._bundle, nodes, {n.node_id for n in ready}) if len(ready) < wish.nodes else ()
        with self._lock:
            self._given_back -= leaving
            names = {node["NodeManagerHostname"]: node["NodeManagerAddress"] for node in nodes}
            self._show(Look(tuple(ready), tuple(offered), draining, names))

    def _sort_out(
        self, groups: dict[str, dict[str, Any]], hosts: Mapping[str, str], wish: Wish, leaving: Collection[str]
    ) -> list[ReadyNode]:
        """Groups that are nodes now. Those that are not wanted are taken out of `groups` and removed: they are given
        back, lie on a bad node, or are the second one on a node."""
        ready = []
        for group_id, row in list(groups.items()):
            if row["state"] != "CREATED":
                continue
            node_id = row["bundles_to_node_id"][0]
            host = hosts.get(node_id, "")
            is_second = self._kept.setdefault(node_id, group_id) != group_id and self._kept[node_id] in groups
            if node_id in leaving or is_second or (host in wish.not_on and node_id not in wish.used):
                del groups[group_id]
                _remove(group_id)
            else:
                self._kept[node_id] = group_id
                ready.append(ReadyNode(_group(group_id), node_id, host))
        return ready

    def _trim(
        self, groups: Mapping[str, dict[str, Any]], surplus: int, ready: list[ReadyNode], wish: Wish
    ) -> list[ReadyNode]:
        """Pending groups go first; those that are in use stay."""
        idle = {node.group.id.hex(): node for node in ready if node.node_id not in wish.used}
        pending = [group_id for group_id, row in groups.items() if row["state"] != "CREATED"]
        removed = [*pending, *idle][:surplus]
        for group_id in removed:
            _remove(group_id)
        return [node for node in ready if node.group.id.hex() not in removed]

    def _ask(self, count: int, not_on: Collection[str]) -> None:
        selector = {"ray.io/node-id": f"!in({','.join(sorted(not_on))})"} if not_on else {}
        for _ in range(count):
            placement_group(
                [self._bundle],
                strategy="STRICT_PACK",
                name=self._run.actor_name(f"group-{secrets.token_hex(4)}"),
                lifetime="detached",
                bundle_label_selector=[selector],
            )


def remove_groups(run: RunHandle) -> None:
    """All that this run has asked for, whoever did."""
    for group_id in list_groups(run):
        _remove(group_id)


def list_groups(run: RunHandle) -> dict[str, dict[str, Any]]:
    """By id, what Ray knows of the groups of a run."""
    prefix = run.actor_name("group-")
    table = placement_group_table()
    return {id_: row for id_, row in table.items() if row["name"].startswith(prefix) and row["state"] != "REMOVED"}


def _group(group_id: str) -> PlacementGroup:
    return PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id)))


def _remove(group_id: str) -> None:
    remove_placement_group(_group(group_id))


def _list_draining() -> dict[str, int]:
    return cluster_state.get_draining_nodes()  # type: ignore[no-any-return]


def _notice(deadline_ms: int) -> Notice:
    """A deadline of 0 is none."""
    return Notice(reason=DRAINED, until=deadline_ms / 1000 if deadline_ms else float("inf"))


def offers(bundle: dict[str, float], nodes: Sequence[dict[str, Any]], held: Collection[str]) -> list[NodeOffer]:
    """Every living node against what is asked. `held`: nodes that this run has already."""
    free = available_resources_per_node()
    return [_offer(node, free.get(node["NodeID"], {}), bundle, held) for node in nodes if node["Alive"]]


def _offer(node: dict[str, Any], free: dict[str, float], bundle: dict[str, float], held: Collection[str]) -> NodeOffer:
    total = node["Resources"]
    lacks = [name for name, amount in bundle.items() if total.get(name, 0.0) < amount]
    taken = [name for name, amount in bundle.items() if free.get(name, 0.0) < amount]
    if node["NodeID"] in held:
        why_not = "held by this run"
    elif lacks:
        why_not = "too small: " + ", ".join(f"{total.get(name, 0):g} {name}" for name in lacks)
    else:
        why_not = ", ".join(f"{free.get(name, 0):g} of {total[name]:g} {name} free" for name in taken)
    return NodeOffer(
        host=node["NodeManagerHostname"],
        node_id=node["NodeID"],
        free={name: free.get(name, 0.0) for name in bundle},
        total={name: total.get(name, 0.0) for name in bundle},
        why_not=why_not,
    )
