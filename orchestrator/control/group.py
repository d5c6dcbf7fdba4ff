"""Placement groups: one of one bundle per node. A pending group is how the job asks for a node, a ready one is a node.

Groups are detached and named by run, so that a new controller finds them; whoever ends the run removes them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from orchestrator.control.jobs import RunHandle

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


def why_waiting(bundle: dict[str, float]) -> str:
    """What is asked against what each node has, for people."""
    asked = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
    lines = []
    for node in ray.nodes():
        if node["Alive"]:
            has = ", ".join(f"{node['Resources'].get(name, 0):g} {name}" for name in bundle)
            lines.append(f"{node['NodeManagerHostname']} has {has}")
    return f"each node must offer {asked}; " + ("; ".join(lines) or "no node is alive")
