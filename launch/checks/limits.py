"""What the container or batch job around this process lets it use: control groups of Linux, version 1 and 2."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_MEMORY = ("memory.max", "memory.limit_in_bytes")  # in version 2, in version 1
_PROCESSES = ("pids.max",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """None where nothing limits. Threads count as processes."""

    memory_bytes: int | None
    cpus: float | None
    processes: int | None


def read_limits(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> Limits:
    """The tightest limit holds, of this process's own group or any above it."""
    if not groups.exists():
        return Limits(memory_bytes=None, cpus=None, processes=None)
    folders = list(_folders(groups.read_text(), mount))
    return Limits(
        memory_bytes=min(_numbers(folders, _MEMORY), default=None),
        cpus=min(_quotas(folders), default=None),
        processes=min(_numbers(folders, _PROCESSES), default=None),
    )


def usable_processors(limits: Limits) -> float:
    """How many this process may keep busy."""
    allowed = len(os.sched_getaffinity(0))
    return allowed if limits.cpus is None else min(allowed, limits.cpus)


def count_processors(limits: Limits) -> int:
    """Whole ones, to be reserved."""
    return max(1, int(usable_processors(limits)))


def usable_memory(limits: Limits) -> int:
    """Bytes; beyond them the kernel kills."""
    total = int(psutil.virtual_memory().total)
    return total if limits.memory_bytes is None else min(total, limits.memory_bytes)


def _folders(groups: str, mount: Path) -> Iterator[Path]:
    """Each line of /proc/self/cgroup is number:controllers:path, version 2 without controllers. In a container the path
    may be that of the host and lead nowhere; the container's own limits are then at the top of the mount."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            top = mount / controller
            own = top / path.lstrip("/")
            yield from (own, *(folder for folder in own.parents if folder.is_relative_to(top)))


def _numbers(folders: list[Path], names: tuple[str, ...]) -> Iterator[int]:
    for folder in folders:
        for name in names:
            text = _read(folder / name)
            if text.isdigit():
                yield int(text)


def _quotas(folders: list[Path]) -> Iterator[float]:
    """CPU time in a period, over the period; "max" or -1 stands for no limit."""
    for folder in folders:
        both = _read(folder / "cpu.max") or " ".join(
            _read(folder / f"cpu.cfs_{what}_us") for what in ("quota", "period")
        )
        quota, _, period = both.partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
