"""Python, and the packages that Longhaul declares. Imports nothing that may itself be missing, but for what comes with
Ray: launch/remote/arrival.py looks at the Python of a cluster before anything else does."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import orchestrator
from launch.checks.check import Check

GIANTS = ("torch", "deepspeed", "ray")  # the packages whose version people ask for first

RequiresOf = Callable[[str], Sequence[str] | None]  # what a package declares, as importlib.metadata.requires says it


def read_versions() -> dict[str, str]:
    """Of Python, of every installed package, and of Longhaul's own code."""
    versions = installed_versions()
    versions["python"] = platform.python_version()
    versions["longhaul"] = f"{versions['longhaul']} (code {_code_digest()})"
    return versions


def installed_versions() -> dict[str, str]:
    """Of two installations of one package that which is imported."""
    found = reversed(list(importlib.metadata.distributions()))
    return {canonicalize_name(package.name): package.version for package in found}


def _code_digest() -> str:
    """An editable installation may differ from another of the same version."""
    top = Path(orchestrator.__file__).parents[1]
    digest = blake2b(digest_size=4)
    for path in sorted(path for package in ("orchestrator", "launch") for path in (top / package).rglob("*.py")):
        digest.update(str(path.relative_to(top)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


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
