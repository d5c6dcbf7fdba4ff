"""Python, the packages that Longhaul declares, and a compiler that really compiles."""

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import xxhash
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import orchestrator
from launch.checks.check import Check

GIANTS = ("torch", "deepspeed", "ray")  # the packages whose version people ask for first
COMPILE_TIMEOUT_S = 30.0
_PROGRAM = "#include <Python.h>\n#include <vector>\nint main() { return static_cast<int>(std::vector<int>(1)[0]); }\n"

RequiresOf = Callable[[str], Sequence[str] | None]  # what a package declares, as importlib.metadata.requires says it


def read_versions() -> dict[str, str]:
    """Of Python, of every installed package, and of Longhaul's own code."""
    found = importlib.metadata.distributions()
    versions: dict[str, str] = {canonicalize_name(package.name): package.version for package in found}
    versions["python"] = platform.python_version()
    versions["longhaul"] = f"{versions['longhaul']} (code {_code_digest()})"
    return versions


def _code_digest() -> str:
    """An editable installation may differ from another of the same version."""
    top = Path(orchestrator.__file__).parents[1]
    digest = xxhash.xxh3_64()
    for path in sorted(path for package in ("orchestrator", "launch") for path in (top / package).rglob("*.py")):
        digest.update(str(path.relative_to(top)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def declared(requires_of: RequiresOf) -> Iterator[Requirement]:
    """What Longhaul needs, and what its requirements need for the extras that it asks of them."""
    for text in requires_of("longhaul") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        yield requirement
        for extra in requirement.extras:
            for further in map(Requirement, requires_of(requirement.name) or []):
                if further.marker is not None and further.marker.evaluate({"extra": extra}):
                    yield further


def check_python(version: str, wanted: str) -> Check:
    if version in SpecifierSet(wanted):
        return Check("ok", "python", version)
    return Check("problem", "python", version, f"make the environment with Python {wanted}")


def check_packages(requires_of: RequiresOf, versions: Mapping[str, str]) -> Check:
    """Compare what is installed with the ranges of pyproject.toml, where they are written once."""
    wrong = []
    for requirement in declared(requires_of):
        found = versions.get(canonicalize_name(requirement.name))
        if found is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    if wrong:
        remedy = "run `pip install -e .` again in this environment"
        return Check("problem", "packages", "; ".join(dict.fromkeys(wrong)), remedy)
    return Check("ok", "packages", ", ".join(f"{name} {versions[name]}" for name in GIANTS))


def check_compiler(compiler: str | None, ninja: str | None, why_not: str) -> Check:
    """`why_not`: empty when the compiler could compile."""
    needed = "only DeepSpeed's own operators, which Longhaul does without, need it"
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
