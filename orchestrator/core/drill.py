"""A drill: what a run does to itself on purpose, as drill.json of its run directory says. `longhaul chaos` writes it,
the controller and the ranks read it; a run of users has none."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self


class WrongNumber(NamedTuple):
    """At this step, this rank's loss is not a number, or a thousand times too large."""

    step: int
    kind: Literal["nan", "spike"]
    rank: int = 0
    times: int = 0  # in how many attempts at the step; 0: in all


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """`worlds`: (step, nodes), so many nodes from that step on, entered and left exactly there."""

    worlds: tuple[tuple[int, int], ...] = ()
    wrong: tuple[WrongNumber, ...] = ()

    def nodes_at(self, step: int) -> int | None:
        """None: as many as there are."""
        passed = [nodes for first, nodes in sorted(self.worlds) if first <= step]
        return passed[-1] if passed else None

    def next_world(self, step: int) -> int | None:
        """The first step after this one at which another world begins."""
        return min((first for first, _ in self.worlds if first > step), default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "worlds": [list(world) for world in self.worlds],
            "wrong": [list(one) for one in self.wrong],
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        worlds = tuple((step, nodes) for step, nodes in fields["worlds"])
        return cls(worlds=worlds, wrong=tuple(WrongNumber(*one) for one in fields["wrong"]))
