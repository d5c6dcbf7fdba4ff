"""The lease file: proof that a run's controller lives. Whoever finds it lapsed may claim the next generation.

Nobody has to wait for it to run out where all processes of the run can be seen: when every one of them is dead, it has
lapsed. While ranks live, a dead controller may be replaced any moment, so its lease holds until its time is over; and
while it is frozen, somebody may let it go on."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from orchestrator.core.clock import Clock
from orchestrator.storage.publish import publish_json, read_json

MARGIN_S = 3.0  # ranks hear of a renewal a moment after it is written: they must be gone before others begin


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """`members` are (pid, time of birth) of the run's processes on the controller's host, itself first."""

    generation: int
    t: float
    lease_s: float
    address: str
    host: str
    members: Sequence[tuple[int, float]]
    all_here: bool  # no process of the run is on another host

    def lapsed(self, clock: Clock) -> bool:
        if self.host == host_identity():
            alive = [_is_alive(*member) for member in self.members]
            if alive[0] and not _is_stopped(self.members[0][0]):
                return False
            if self.all_here and not any(alive):
                return True
        return clock.now() - self.t > self.lease_s + MARGIN_S


def write_lease(
    path: Path, *, generation: int, lease_s: float, address: str, clock: Clock, pids: Sequence[int], all_here: bool
) -> None:
    """Renew. `pids` are the run's other processes on this host."""
    born = ((pid, time_of_birth(pid)) for pid in (os.getpid(), *pids))
    lease = Lease(
        generation=generation,
        t=clock.now(),
        lease_s=lease_s,
        address=address,
        host=host_identity(),
        members=[(pid, time) for pid, time in born if time is not None],
        all_here=all_here,
    )
    publish_json(path, {"format": 1, **asdict(lease)})


def read_lease(path: Path) -> Lease | None:
    if not path.exists():
        return None
    fields: dict[str, Any] = read_json(path)
    del fields["format"]
    return Lease(**fields)


@cache
def host_identity() -> str:
    """One boot of one kernel, seen from one pid namespace: where a pid means the same process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def time_of_birth(pid: int) -> float | None:
    """None when there is no such process, or only its remains."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def _is_alive(pid: int, born: float) -> bool:
    found = time_of_birth(pid)
    return found is not None and abs(found - born) < 1.0


def _is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
