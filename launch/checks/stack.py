"""GPUs, torch and DeepSpeed. What importing them shows comes from a process of its own (stack_probe.py): a broken
build may take its process down, and an import may hang."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pynvml

from launch.checks.check import Check, in_gib

PROBE_TIMEOUT_S = 60.0  # a cold environment on a network file system takes its time

Found = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpus:
    """The driver's view. `trouble`: a driver is there but does not answer as it should."""

    names: list[str] = field(default_factory=list)
    memory_bytes: int = 0  # of the smallest
    driver: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class StackFound:
    """What stack_probe.py told; {"error": ...} where it failed."""

    torch: Found
    deepspeed: Found


def check_gpus(gpus: Gpus) -> Check:
    if gpus.trouble:
        remedy = "`nvidia-smi` shows more; a driver just updated wants a reboot, a lost GPU a look at its node"
        return Check("problem", "GPUs", gpus.trouble, remedy)
    if not gpus.names:
        return Check("ok", "GPUs", "none: ranks compute on the CPU")
    return Check("ok", "GPUs", f"{count_names(gpus.names)} with {in_gib(gpus.memory_bytes)}, driver {gpus.driver}")


def check_torch(found: Found, gpus: Gpus) -> Check:
    if "error" in found:
        return Check("problem", "torch", f"cannot be imported: {found['error']}", "reinstall torch in this environment")
    version = found["version"]
    if not gpus.names:
        return Check("ok", "torch", f"{version} computes on the CPU")
    if found["cuda"] is None:
        return Check("warning", "torch", f"{version} cannot use the GPUs", "take torch's CUDA build")
    if found["trouble"]:
        remedy = f"the driver must be new enough for CUDA {found['cuda']}, or take an older CUDA build of torch"
        return Check("problem", "torch", f"{version} cannot use the GPUs: {found['trouble']}", remedy)
    broken = [f"GPU {i}: {trouble}" for i, trouble in enumerate(found["devices"]) if trouble]
    if broken:
        remedy = "is it in use by another job, or lost? `nvidia-smi` tells; otherwise take a torch built for this GPU"
        return Check("problem", "torch", f"{version} cannot compute on {'; '.join(broken)}", remedy)
    bf16 = "bf16" if found["bf16"] else "no bf16 (use train.precision=fp16)"
    return Check("ok", "torch", f"{version} computes on {len(found['devices'])} GPU(s), {bf16}, NCCL {found['nccl']}")


def check_deepspeed(found: Found) -> Check:
    if "error" in found:
        remedy = "reinstall deepspeed in this environment, after torch"
        return Check("problem", "DeepSpeed", f"cannot be imported: {found['error']}", remedy)
    buildable = [name for name, can in found["ops"].items() if can]
    others = [name for name in found["ops"] if name not in buildable]
    detail = f"{found['version']} for {found['accelerator']}; {len(buildable)} of its operators could be built here"
    detail += f", not {', '.join(others)}" if others else ""
    return Check("ok", "DeepSpeed", f"{detail} (Longhaul needs none of them)")


def check_cuda_compiler(wanted: str | None, found: str | None) -> Check:
    """`wanted` is torch's CUDA. Operators can be built when the major versions are the same."""
    remedy = f"only DeepSpeed's own CUDA operators need it: install the toolkit of CUDA {wanted} and set CUDA_HOME"
    if found is None:
        return Check("ok", "CUDA compiler", "no nvcc; nothing here needs it")
    if wanted is not None and found.split(".")[0] != wanted.split(".")[0]:
        return Check("warning", "CUDA compiler", f"nvcc {found} does not match torch's CUDA {wanted}", remedy)
    return Check("ok", "CUDA compiler", f"nvcc {found}")


def count_names(names: list[str]) -> str:
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


# ---- looking ----


def read_gpus() -> Gpus:
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return Gpus()
    except pynvml.NVMLError as error:
        return Gpus(trouble=f"the NVIDIA driver does not start: {error}")
    names: list[str] = []
    memories: list[int] = []
    try:
        for i in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(i)
            names.append(str(pynvml.nvmlDeviceGetName(handle)))
            memories.append(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))
        driver = str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return Gpus(names=names, trouble=f"GPU {len(memories)} does not answer: {error}")
    finally:
        pynvml.nvmlShutdown()
    return Gpus(names=names, memory_bytes=min(memories, default=0), driver=driver)


def nvcc_version(cuda_home: str | None) -> str | None:
    """`cuda_home`: where torch looks for the CUDA toolkit."""
    nvcc = Path(cuda_home) / "bin" / "nvcc" if cuda_home else shutil.which("nvcc")
    try:
        out = subprocess.run([str(nvcc), "-V"], capture_output=True, text=True, timeout=10.0, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    release = re.search(r"release (\d+\.\d+)", out)
    return release.group(1) if release else None


class Probe:
    """The running process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def read(self, timeout_s: float = PROBE_TIMEOUT_S) -> StackFound:
        try:
            out, err = self._process.communicate(timeout=timeout_s)
            error = _why_ended(self._process.returncode, err)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, _ = self._process.communicate()
            error = f"it took longer than {timeout_s:g} s"
        return parse_findings(out, error)


@contextmanager
def started_probe() -> Iterator[Probe]:
    command = [sys.executable, "-m", "launch.checks.stack_probe"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield Probe(process)
        finally:
            process.kill()


def parse_findings(out: str, error: str) -> StackFound:
    """One JSON object a line; what is missing there has failed with `error`."""
    found: dict[str, Any] = {}
    for line in out.splitlines():
        found |= json.loads(line)
    failed = {"error": error}
    return StackFound(found.get("torch", failed), found.get("deepspeed", failed))


def _why_ended(code: int, err: str) -> str:
    if code < 0:
        return f"the import ended by {signal.Signals(-code).name}"
    lines = err.strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"
