"""Everything that a run needs of the machine it is on. `look_at_machine` is what a doctor's visit to a node does.

Comes before table.py shows what was found; cluster.py has every node of a cluster looked at and compares them."""

import importlib.metadata
import os
import platform
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from launch.checks.check import GIB, Check, in_gib
from launch.checks.compiler import check_compiler, try_compiler
from launch.checks.folders import check_root, check_scratch, look_at_folder, scratch_folder
from launch.checks.limits import read_limits, usable_processors
from launch.checks.packages import check_packages, check_python, read_versions
from launch.checks.stack import (
    check_cuda_compiler,
    check_deepspeed,
    check_gpus,
    check_torch,
    nvcc_version,
    read_gpus,
    started_probe,
)
from launch.checks.surroundings import check_ray, check_tracking, proxies, why_not_reached

LEAST_MEMORY_BYTES = 4 * GIB  # Ray and two small ranks take most of it
LEAST_SHARED_BYTES = GIB  # below it Ray moves its object store to a disk, which is slow
LEAST_DESCRIPTORS = 4096  # Ray warns below it
LEAST_PROCESSES = 4096  # Ray and torch start some hundred threads for each process


@dataclass(frozen=True, slots=True)
class MachineReport:
    """`versions` and `gpus` are for comparing machines with each other."""

    checks: list[Check]
    versions: dict[str, str]
    gpus: list[str]


def look_at_machine(root: Path, *, has_wandb_key: bool) -> MachineReport:
    """`root` is where run directories shall lie. Nothing is left behind."""
    with started_probe() as probe:  # importing torch and DeepSpeed takes longest: the rest goes on beside it
        versions, gpus, limits = read_versions(), read_gpus(), read_limits()
        before = [
            check_system(platform.system(), platform.release(), why_no_pidfd()),
            check_python(platform.python_version(), importlib.metadata.metadata("longhaul")["Requires-Python"]),
            check_packages(importlib.metadata.requires, versions),
            check_compiler(*try_compiler()),
        ]
        after = [
            check_ray(versions.get("ray", "missing"), os.environ, proxies()),
            check_processors(os.cpu_count() or 1, usable_processors(limits)),
            check_memory(psutil.virtual_memory().total, limits.memory_bytes),
            check_shared_memory(Path("/dev/shm")),
            check_scratch(look_at_folder(scratch_folder())),
            check_root(root, look_at_folder(root)),
            check_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            check_processes(limits.processes),
            check_tracking(why_not_reached(), has_key=True) if has_wandb_key else check_tracking("", has_key=False),
        ]
        found = probe.read()
    stack = [check_gpus(gpus), check_torch(found.torch, gpus), check_deepspeed(found.deepspeed)]
    if gpus.names:
        stack.append(check_cuda_compiler(found.torch.get("cuda"), nvcc_version(found.torch.get("cuda_home"))))
    compared = versions | ({"NVIDIA driver": gpus.driver} if gpus.names else {})
    return MachineReport([*before, *stack, *after], compared, gpus.names)


def check_machine(root: Path, *, has_wandb_key: bool) -> list[Check]:
    return look_at_machine(root, has_wandb_key=has_wandb_key).checks


# ---- the checks ----


def check_system(system: str, release: str, why_no_pidfd: str) -> Check:
    if system != "Linux":
        return Check("problem", "system", system, "Longhaul needs Linux: ranks are watched by pidfd and /proc")
    if why_no_pidfd:
        remedy = "Longhaul watches ranks by pidfd: take Linux 5.3 or newer, or allow pidfd_open in this sandbox"
        return Check("problem", "system", f"Linux {release} without pidfd: {why_no_pidfd}", remedy)
    return Check("ok", "system", f"Linux {release}")


def check_processors(cpus: int, usable: float) -> Check:
    if usable >= cpus:
        return Check("ok", "processors", f"{cpus} CPUs")
    remedy = f"set cluster.cpus_per_rank: at most {max(1, int(usable))} for all ranks of this machine together"
    return Check("warning", "processors", f"only {usable:g} of {cpus} CPUs may be used here (container or job)", remedy)


def check_memory(machine_bytes: int, limit_bytes: int | None) -> Check:
    if limit_bytes is None or limit_bytes >= machine_bytes:
        detail, usable_bytes = in_gib(machine_bytes), machine_bytes
    else:
        detail, usable_bytes = f"{in_gib(limit_bytes)} of {in_gib(machine_bytes)} (container or job)", limit_bytes
    if usable_bytes < LEAST_MEMORY_BYTES:
        remedy = f"small runs want {in_gib(LEAST_MEMORY_BYTES)}; beyond the limit the kernel kills ranks"
        return Check("warning", "memory", detail, remedy)
    return Check("ok", "memory", detail)


def check_shared_memory(folder: Path) -> Check:
    if not folder.is_dir():
        return Check("problem", "shared memory", f"there is no {folder}", f"mount a tmpfs at {folder}")
    usage = shutil.disk_usage(folder)
    detail = f"{folder} has {in_gib(usage.total)}, {in_gib(usage.free)} of it free"
    if usage.total < LEAST_SHARED_BYTES:
        remedy = f"give it {in_gib(LEAST_SHARED_BYTES)} or more, in a container by --shm-size"
        return Check("warning", "shared memory", detail, remedy)
    if usage.free < LEAST_SHARED_BYTES:
        remedy = f"remove what dead processes have left in {folder}"
        return Check("warning", "shared memory", detail, remedy)
    return Check("ok", "shared memory", detail)


def check_descriptors(hard_limit: int) -> Check:
    """Ray raises its own limit as far as the hard one allows."""
    if hard_limit == resource.RLIM_INFINITY:
        return Check("ok", "open files", "no limit")
    if hard_limit < LEAST_DESCRIPTORS:
        return Check("warning", "open files", f"at most {hard_limit}", "ulimit -n 65536 before Ray or a run is started")
    return Check("ok", "open files", f"at most {hard_limit}")


def check_processes(limit: int | None) -> Check:
    if limit is None:
        return Check("ok", "processes", "no limit")
    if limit < LEAST_PROCESSES:
        remedy = f"give the container or job {LEAST_PROCESSES} or more, for example by --pids-limit"
        return Check("warning", "processes", f"at most {limit} processes and threads", remedy)
    return Check("ok", "processes", f"at most {limit} processes and threads")


def why_no_pidfd() -> str:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:  # no Linux, or a sandbox that forbids it
        return str(error)
    return ""
