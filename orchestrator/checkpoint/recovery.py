"""Which snapshot a run goes on from: the newest of which enough parts have survived. Pure.

Comes after the vaults that are left have said what they hold (control/snapshots.py asks them)."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.checkpoint.layout import MayUse, use_any
from orchestrator.checkpoint.part import PartPlace


class Held(NamedTuple):
    """A whole part in a vault's slot."""

    place: PartPlace
    path: str  # of the slot
    is_own: bool  # of a rank of the vault's node; otherwise mirrored from the node whose buddy it is


class Found(NamedTuple):
    """Where the chosen copy of a part is: in which of the vaults, counted from 0, and in which slot."""

    vault: int
    held: Held


@dataclass(frozen=True, slots=True)
class Choice:
    generation: int
    step: int
    parts: tuple[tuple[Found, ...], ...]  # by rank, its copies: the one beside it first


def choose_snapshot(inventories: Sequence[Sequence[Held]], may_use: MayUse = use_any) -> Choice | None:
    """One inventory a vault. A later generation is newer, whatever its step: it went back for a reason.

    Of several copies of a part the one beside its rank comes before a mirrored one."""
    snapshots: dict[tuple[int, int, int], dict[int, list[Found]]] = defaultdict(dict)
    for found in sorted(_list_all(inventories), key=lambda one: not one.held.is_own):
        place = found.held.place
        snapshots[place[:3]].setdefault(place.rank, []).append(found)
    for (generation, step, world_size), parts in sorted(snapshots.items(), reverse=True):
        if len(parts) == world_size and may_use(generation, step):
            return Choice(generation, step, tuple(tuple(parts[rank]) for rank in range(world_size)))
    return None


def _list_all(inventories: Sequence[Sequence[Held]]) -> Iterator[Found]:
    for vault, inventory in enumerate(inventories):
        for held in inventory:
            yield Found(vault, held)
