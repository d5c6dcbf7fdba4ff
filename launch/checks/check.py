"""The words of the doctor: one thing looked at, and everything found on one machine or on a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

Level = Literal["ok", "warning", "problem"]  # a warning keeps no run from starting

GIB = 2**30
MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `remedy` says what to do unless all is well."""

    level: Level
    what: str
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found on each node, by name, and what only shows when nodes are held against each other."""

    nodes: dict[str, list[Check]]
    across: list[Check] = field(default_factory=list)

    def all(self) -> Iterator[Check]:
        for checks in self.nodes.values():
            yield from checks
        yield from self.across

    def to_json(self) -> dict[str, Any]:
        nodes = {name: [check.to_json() for check in checks] for name, checks in self.nodes.items()}
        return {"format": 1, "nodes": nodes, "across": [check.to_json() for check in self.across]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        nodes = {name: [Check.from_json(one) for one in checks] for name, checks in fields["nodes"].items()}
        return cls(nodes, [Check.from_json(one) for one in fields["across"]])


def in_gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.1f} GiB"


def name_nodes(nodes: Sequence[str]) -> str:
    """Some by name, the rest by number."""
    if len(nodes) <= MOST_NAMES + 1:
        return ", ".join(nodes)
    return f"{', '.join(nodes[:MOST_NAMES])} and {len(nodes) - MOST_NAMES} more"
