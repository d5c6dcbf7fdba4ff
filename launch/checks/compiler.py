"""A C++ compiler that really compiles; DeepSpeed would build its operators with it."""

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launch.checks.check import Check

COMPILE_TIMEOUT_S = 30.0
_PROGRAM = "#include <Python.h>\n#include <vector>\nint main() { return static_cast<int>(std::vector<int>(1)[0]); }\n"


def check_compiler(compiler: str | None, ninja: str | None, why_not: str) -> Check:
    """`why_not`: empty when the compiler could compile."""
    needed = "only train.compile and DeepSpeed's own operators, which Longhaul does without, need it"
    missing = [name for name, found in (("C++ compiler", compiler), ("ninja", ninja)) if found is None]
    if missing:
        remedy = f"from your system's packages; {needed}"
        return Check("warning", "compiler", f"no {' and no '.join(missing)}", remedy)
    if why_not:
        remedy = f"install g++ and Python's headers (python3-dev); {needed}"
        return Check("warning", "compiler", f"{compiler} cannot compile: {why_not}", remedy)
    return Check("ok", "compiler", f"{compiler} compiles; ninja is there")


def try_compiler() -> tuple[str | None, str | None, str]:
    """Compiler, ninja, and why the compiler cannot compile."""
    command = shlex.split(os.environ.get("CXX", "c++"))  # as torch chooses it
    compiler = shutil.which(command[0])
    return compiler, shutil.which("ninja"), _why_not_compiled(command) if compiler else ""


def _why_not_compiled(command: Sequence[str]) -> str:
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "probe.cpp"
        source.write_text(_PROGRAM)
        include = f"-I{sysconfig.get_path('include')}"
        full = [*command, "-shared", "-fPIC", include, str(source), "-o", str(source.with_suffix(".so"))]
        try:
            done = subprocess.run(full, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else f"exit code {done.returncode}")
