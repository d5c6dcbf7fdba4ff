"""What this machine can do, and what is missing for it. Behind `longhaul doctor`; starts nothing and imports no torch.

Each check judges values that it is handed; `check_machine` is the only place that looks at the machine."""

import importlib.metadata
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pynvml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.environment import has_wandb_key
from orchestrator.core.words import ExitCode

Level = Literal["ok", "warning", "problem"]

GIB = 2**30
LEAST_SHARED_BYTES = GIB  # below it Ray moves its object store to a disk, which is slow
LEAST_FREE_BYTES = 5 * GIB  # the quickstart with its data, caches and checkpoints takes less than half of it
LEAST_DESCRIPTORS = 4096  # Ray warns below it
GIANTS = ("torch", "deepspeed", "ray")  # the packages whose version people ask for first
COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `remedy` says what to do unless all is well."""

    level: Level
    what: str
    detail: str
    remedy: str = ""


def check_machine(root: Path) -> list[Check]:
    """Look at everything that a run on this machine needs; `root` is where run directories shall lie."""
    metadata = importlib.metadata.metadata("longhaul")
    versions: dict[str, str] = {
        canonicalize_name(package.name): package.version for package in importlib.metadata.distributions()
    }
    requirements = [Requirement(text) for text in importlib.metadata.requires("longhaul") or []]
    folder = _nearest_folder(root.absolute())
    return [
        check_system(platform.system(), platform.release()),
        check_python(platform.python_version(), metadata["Requires-Python"]),
        check_packages([one for one in requirements if one.marker is None or one.marker.evaluate()], versions),
        check_compiler(*(shutil.which(name) for name in ("c++", "ninja"))),
        check_processors(os.cpu_count() or 1, psutil.virtual_memory().total),
        check_accelerators(_gpu_names(), versions.get("torch", "")),
        check_shared_memory(Path("/dev/shm")),
        check_root(root, folder, _why_not_writable(folder), shutil.disk_usage(folder).free),
        check_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        check_tracking(has_wandb_key()),
    ]


def show_machine(root: Path) -> ExitCode:
    checks = check_machine(root)
    print_checks(checks, Console())
    return exit_code(checks)


def print_checks(checks: Sequence[Check], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        level = Text(check.level, style=COLOURS[check.level])
        table.add_row(level, *(Text(text) for text in (check.what, check.detail, check.remedy)))
    console.print(table)


def exit_code(checks: Sequence[Check]) -> ExitCode:
    """Warnings do not keep a run from starting; problems do."""
    return ExitCode.BAD_INPUT if any(check.level == "problem" for check in checks) else ExitCode.DONE


# ---- the checks ----


def check_system(system: str, release: str) -> Check:
    if system != "Linux":
        return Check("problem", "system", system, "Longhaul needs Linux: ranks are watched by pidfd and /proc")
    return Check("ok", "system", f"Linux {release}")


def check_python(version: str, wanted: str) -> Check:
    if version in SpecifierSet(wanted):
        return Check("ok", "python", version)
    return Check("problem", "python", version, f"make the environment with Python {wanted}")


def check_packages(requirements: Sequence[Requirement], versions: Mapping[str, str]) -> Check:
    """Compare what is installed with the ranges of pyproject.toml, where they are written once."""
    wrong = []
    for requirement in requirements:
        found = versions.get(canonicalize_name(requirement.name))
        if found is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    if wrong:
        return Check("problem", "packages", "; ".join(wrong), "run `pip install -e .` again in this environment")
    return Check("ok", "packages", ", ".join(f"{name} {versions[name]}" for name in GIANTS))


def check_compiler(compiler: str | None, ninja: str | None) -> Check:
    missing = [name for name, found in (("C++ compiler", compiler), ("ninja", ninja)) if found is None]
    if not missing:
        return Check("ok", "compiler", "C++ compiler and ninja")
    remedy = "only needed for DeepSpeed's own operators, such as its CPU Adam; from your system's packages"
    return Check("warning", "compiler", f"no {' and no '.join(missing)}", remedy)


def check_processors(cpus: int, memory_bytes: int) -> Check:
    return Check("ok", "processors", f"{cpus} CPUs, {_gib(memory_bytes)} of memory")


def check_accelerators(names: Sequence[str], torch_version: str) -> Check:
    if not names:
        return Check("ok", "accelerators", "none: ranks compute on the CPU")
    detail = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    if torch_version.endswith("+cpu"):
        return Check("warning", "accelerators", detail, f"torch {torch_version} cannot use them: take its CUDA build")
    return Check("ok", "accelerators", detail)


def check_shared_memory(folder: Path) -> Check:
    if not folder.is_dir():
        return Check("problem", "shared memory", f"there is no {folder}", f"mount a tmpfs at {folder}")
    size_bytes = shutil.disk_usage(folder).total
    if size_bytes < LEAST_SHARED_BYTES:
        remedy = f"give it {_gib(LEAST_SHARED_BYTES)} or more, in a container by --shm-size"
        return Check("warning", "shared memory", f"{folder} has {_gib(size_bytes)}", remedy)
    return Check("ok", "shared memory", f"{folder} has {_gib(size_bytes)}")


def check_root(root: Path, folder: Path, why_not_writable: str, free_bytes: int) -> Check:
    """`folder` is root, or the nearest folder above it that exists."""
    if why_not_writable:
        remedy = "make it writable, or give another folder as root"
        return Check("problem", "root", f"{root}: {folder} cannot be written to: {why_not_writable}", remedy)
    if free_bytes < LEAST_FREE_BYTES:
        remedy = f"even small runs want {_gib(LEAST_FREE_BYTES)}; free space, or give another folder as root"
        return Check("warning", "root", f"{root} has {_gib(free_bytes)} free", remedy)
    return Check("ok", "root", f"{root} has {_gib(free_bytes)} free")


def check_descriptors(hard_limit: int) -> Check:
    """Ray raises its own limit as far as the hard one allows."""
    if hard_limit == resource.RLIM_INFINITY:
        return Check("ok", "open files", "no limit")
    if hard_limit < LEAST_DESCRIPTORS:
        return Check("warning", "open files", f"at most {hard_limit}", "ulimit -n 65536 before the run")
    return Check("ok", "open files", f"at most {hard_limit}")


def check_tracking(has_key: bool) -> Check:
    if has_key:
        return Check("ok", "W&B", "an API key is there: runs go online")
    return Check("ok", "W&B", "no API key: runs are kept offline (`wandb login` or WANDB_API_KEY to go online)")


# ---- looking at the machine ----


def _gpu_names() -> list[str]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no NVIDIA driver here
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _why_not_writable(folder: Path) -> str:
    """Empty when a file can be written there: permissions alone do not tell, file systems may be read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"
