"""When the lease of a run is written: now and then, and at once when other processes are there. Pure.

Comes after gang.py, which hears of the processes; before tracking/lease.py, by which others know whether the run lives.
Were a controller to die before its lease knows of its ranks, the run would look lost, though they live."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.control.jobs import NodeReport

EVERY_S = 1.0


class Family(NamedTuple):
    """A run's processes on the controller's host, itself left out."""

    pids: tuple[int, ...] = ()
    all_here: bool = True  # none is on another host


@dataclass(slots=True)
class Renewal:
    """What was written last, and when."""

    family: Family | None = None
    at: float = -math.inf

    def is_due(self, family: Family, now: float) -> bool:
        """If so it is taken to be written."""
        if family == self.family and now - self.at < EVERY_S:
            return False
        self.family, self.at = family, now
        return True


def find_family(reports: Sequence[NodeReport], num_node_actors: int, host: str) -> Family:
    """`host`: where pids mean what they do to the controller. A node actor that has not answered may be anywhere."""
    here = [node for node in reports if node.identity == host]
    pids = tuple(pid for node in here for pid in (node.pid, *(rank.pid for rank in node.ranks if rank.pid)))
    return Family(pids, all_here=len(here) == num_node_actors)
