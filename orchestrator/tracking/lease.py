"""The lease file: proof that a run's controller lives. Whoever finds it lapsed may claim the next generation.

On the controller's own host nobody has to wait for the lease to run out: a dead process is seen at once."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.core.clock import Clock
from orchestrator.storage.publish import publish_json, read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    generation: int
    t: float
    lease_s: float
    host: str
    pid: int
    born: float
    address: str

    def lapsed(self, clock: Clock) -> bool:
        if self.host == host_identity():
            return not _alive(self.pid, self.born)
        return clock.now() - self.t > self.lease_s

    def seconds_left(self, clock: Clock) -> float:
        return 0.0 if self.lapsed(clock) else max(0.0, self.t + self.lease_s - clock.now())


def write_lease(path: Path, *, generation: int, lease_s: float, address: str, clock: Clock) -> None:
    process = psutil.Process()
    lease = Lease(
        generation=generation, t=clock.now(), lease_s=lease_s, host=host_identity(),
        pid=process.pid, born=process.create_time(), address=address,
    )  # fmt: skip
    publish_json(path, {"format": 1, **asdict(lease)})


def read_lease(path: Path) -> Lease | None:
    if not path.exists():
        return None
    fields: dict[str, Any] = read_json(path)
    del fields["format"]
    return Lease(**fields)


def host_identity() -> str:
    """One boot of one kernel, seen from one pid namespace: where a pid means the same process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (the link is no path)


def _alive(pid: int, born: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - born) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
