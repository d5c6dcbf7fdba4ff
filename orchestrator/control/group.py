"""Placement groups: one of one bundle per node. A pending group is how the job asks for a node, a ready one is a node.

Groups are detached and named by run, so that a new controller finds them; whoever ends the run removes them."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # of each node there is no other way to know
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from orchestrator.control.jobs import RunHandle
from orchestrator.tracking.now import NodeOffer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadyNode:
    group: PlacementGroup
    node_id: str


@dataclass(slots=True)
class Groups:
    """The groups of one run: asked for all at once, kept one to a node."""

    run: RunHandle
    bundle: dict[str, float]
    wanted: int
    _asked: list[PlacementGroup] = field(default_factory=list)
    _count: int = 0

    def ask(self) -> None:
        """Ask for every node still missing."""
        held = sorted(node.node_id for node in self.ready())
        selector = {"ray.io/node-id": f"!in({','.join(held)})"} if held else {}
        while len(self._asked) < self.wanted:
            self._count += 1
            group = placement_group(
                [self.bundle],
                strategy="STRICT_PACK",
                name=self.run.actor_name(f"group-{self._count}"),
                lifetime="detached",
                bundle_label_selector=[selector],
            )
            self._asked.append(group)

    def ready(self) -> list[ReadyNode]:
        """Groups that are nodes now. Of two that landed on one node the later is given back and asked for again."""
        nodes: dict[str, ReadyNode] = {}
        for group in list(self._asked):
            row = placement_group_table(group)
            if row.get("state") != "CREATED":
                continue
            node_id = row["bundles_to_node_id"][0]
            if node_id in nodes:
                self.give_back(group)
            else:
                nodes[node_id] = ReadyNode(group, node_id)
        return list(nodes.values())

    def give_back(self, group: PlacementGroup) -> None:
        self._asked.remove(group)
        remove_placement_group(group)

    def give_back_all(self) -> None:
        for group in list(self._asked):
            self.give_back(group)

    def keep_only(self, nodes: Sequence[ReadyNode]) -> None:
        """Give back what is still pending: this generation starts with `nodes`."""
        kept = {node.group.id for node in nodes}
        for group in list(self._asked):
            if group.id not in kept:
                self.give_back(group)


def remove_leftover_groups(run: RunHandle) -> None:
    """Remove every group that an earlier controller of this run asked for."""
    for group_id, row in placement_group_table().items():
        if row["name"].startswith(f"{run.key}:") and row["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))


def offers(bundle: dict[str, float], held: Collection[str]) -> list[NodeOffer]:
    """Every living node against what is asked. `held`: nodes that this run has already."""
    free = available_resources_per_node()
    return [_offer(node, free.get(node["NodeID"], {}), bundle, held) for node in ray.nodes() if node["Alive"]]


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
