"""What must be the same on all nodes of a run: Python, packages, code, GPUs. Nodes that differ are named."""

import importlib.metadata
from collections import Counter
from collections.abc import Mapping

from packaging.utils import canonicalize_name

from launch.checks.check import Check, name_nodes
from launch.checks.machine import MachineReport
from launch.checks.packages import declared
from launch.checks.stack import count_names

MUST = ("python", "longhaul", "torch", "deepspeed", "ray")  # others may differ, with another rounding at worst
DRIVER = "NVIDIA driver"


def check_alike(reports: Mapping[str, MachineReport]) -> list[Check]:
    """By node."""
    others = [canonicalize_name(requirement.name) for requirement in declared(importlib.metadata.requires)]
    compared = [*MUST, *(name for name in dict.fromkeys(others) if name not in MUST), DRIVER]
    checks = [
        _check_version(name, {node: _version(report, name) for node, report in reports.items()}) for name in compared
    ]
    different = [check for check in checks if check is not None]
    if not different:
        different = [
            Check("ok", "same versions", f"Python, Longhaul's code, {', '.join(MUST[2:])} and all other packages")
        ]
    return [*different, _check_same_gpus({node: report.gpus for node, report in reports.items()})]


def _version(report: MachineReport, name: str) -> str:
    version = report.versions.get(name, "none")
    return ".".join(version.split(".")[:2]) if name == "python" else version


def _check_version(name: str, versions: Mapping[str, str]) -> Check | None:
    """None when all are alike."""
    if len(set(versions.values())) == 1:
        return None
    remedy = f"give all nodes the same {name}, for example by one container image"
    return Check("problem" if name in MUST else "warning", "same versions", f"{name} {describe_odd(versions)}", remedy)


def _check_same_gpus(gpus: Mapping[str, list[str]]) -> Check:
    counted = {node: count_names(names) or "no GPU" for node, names in gpus.items()}
    if len(set(counted.values())) == 1:
        return Check("ok", "same GPUs", next(iter(counted.values())))
    remedy = "cluster.ranks_per_node holds for every node, and the slowest GPU sets the pace: take nodes of one kind"
    return Check("warning", "same GPUs", describe_odd(counted), remedy)


def describe_odd(values: Mapping[str, str]) -> str:
    """The most frequent value with its count, every other with its nodes."""
    (most, count), *_ = Counter(values.values()).most_common(1)
    parts = [f"{most} on {count} node(s)"] if count > 1 else []
    for value in dict.fromkeys(values.values()):
        if value != most or count == 1:
            parts.append(f"{value} on {name_nodes([node for node, own in values.items() if own == value])}")
    return ", ".join(parts)
