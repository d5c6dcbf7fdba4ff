"""What goes to a cluster with a job: the person's own code, this very Longhaul, and the config. Never data, runs,
environments or secrets. Comes before launch/remote/there.py, which uploads it."""

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from orchestrator.core.errors import BadInput

MOST_BYTES = 100 * 2**20
FOLDERS_LEFT_OUT = (".*", "__pycache__", "*.egg-info", "node_modules", "site-packages", "wandb", "build", "dist")
DATA = (
    "*.tar", "*.tar.*", "*.tgz", "*.zip", "*.gz", "*.zst", "*.parquet", "*.arrow", "*.safetensors", "*.pt", "*.pth",
    "*.ckpt", "*.bin", "*.npy", "*.npz", "*.whl", "*.pyc", "*.so", "core.*",
)  # fmt: skip
SECRET_FILES = (
    ".env", ".env.*", "*.env", ".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials", "*.pem", "*.key", "*.p12",
    "*.pfx", "*.kdbx", "id_rsa*", "id_ed25519*", "id_ecdsa*", "credentials", "credentials.*", "kubeconfig*",
    "service-account*.json", "auth_token",
)  # fmt: skip
SECRET_TEXTS = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"|\bAKIA[0-9A-Z]{16}\b|\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{36,}|\bsk-[A-Za-z0-9_-]{32,}"
    rb"|\b(?:[A-Z0-9]+_)*(?:API_KEY|ACCESS_KEY|SECRET|TOKEN|PASSWORD)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+_-]{20,}"
)
MOST_SCANNED_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipment:
    """A staged job: `work` becomes the folder it runs in, each of `modules` can be imported there."""

    work: Path
    modules: list[Path]


def stage(folder: Path, code: Path | None, left_out: Collection[Path], not_secret: Sequence[str] = ()) -> Shipment:
    """Copy everything that goes along into `folder`, an empty one. `left_out`: where data and runs lie."""
    shipment = Shipment(work=folder / "work", modules=list(_stage_longhaul(folder / "modules")))
    shipment.work.mkdir(parents=True)
    if code is not None:
        files = own_code(code, left_out)
        check_size(code, files)
        check_secrets(code, files, not_secret)
        for file in files:
            target = shipment.work / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(code / file, target)
    return shipment


def _stage_longhaul(folder: Path) -> Iterator[Path]:
    """The packages and, so that the job knows its version and what it requires, their metadata."""
    here = Path(__file__).parents[2]
    for package in ("orchestrator", "launch"):
        shutil.copytree(here / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        yield folder / package
    about = importlib.metadata.distribution("longhaul")
    info = folder / f"longhaul-{about.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(about.read_text("METADATA") or about.read_text("PKG-INFO") or "")
    yield info


def own_code(code: Path, left_out: Collection[Path]) -> list[Path]:
    """Files below `code`, relative to it: those that git would keep, or all outside a repository; less what never goes
    along."""
    if code.resolve() in (Path.home(), Path("/")):
        raise BadInput(
            "is no folder of code to send to a cluster", where=str(code), remedy="give one by --code, or --no-code"
        )
    names = _known_to_git(code)
    files = _walk(code) if names is None else (code / name for name in names)
    out = [path.resolve() for path in left_out]
    return sorted(file.relative_to(code) for file in files if _goes_along(code, file, out))


def _known_to_git(code: Path) -> list[str] | None:
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(code), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, check=False)
    return os.fsdecode(done.stdout).split("\0")[:-1] if done.returncode == 0 else None


def _walk(code: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(code):
        folders[:] = [name for name in folders if not _is_left_out(Path(folder, name))]
        yield from (Path(folder, name) for name in files)


@cache
def _is_left_out(folder: Path) -> bool:
    """By its name, or because it is an environment or a run directory."""
    by_name = any(fnmatch(folder.name, pattern) for pattern in FOLDERS_LEFT_OUT)
    return by_name or (folder / "pyvenv.cfg").exists() or (folder / "events" / "g0001.jsonl").exists()


def _goes_along(code: Path, file: Path, out: Sequence[Path]) -> bool:
    if any(fnmatch(file.name, pattern) for pattern in (*DATA, *SECRET_FILES)):
        return False
    if not file.is_file() or file.is_symlink() or any(file.resolve().is_relative_to(path) for path in out):
        return False
    return not any(_is_left_out(folder) for folder in file.parents if folder != code and folder.is_relative_to(code))


def check_size(code: Path, files: Sequence[Path]) -> None:
    sizes = {file: (code / file).stat().st_size for file in files}
    total = sum(sizes.values())
    if total <= MOST_BYTES:
        return
    largest = sorted(sizes, key=lambda file: -sizes[file])[:5]
    named = ", ".join(f"{file} ({sizes[file] / 2**20:.1f} MiB)" for file in largest)
    raise BadInput(
        f"{len(files)} files with {total / 2**20:.0f} MiB are more than the {MOST_BYTES / 2**20:.0f} MiB that go along "
        f"with a job; the largest are {named}",
        where=str(code),
        remedy="leave data out by .gitignore, give a smaller folder by --code, or send no code by --no-code",
    )


def check_secrets(code: Path, files: Sequence[Path], not_secret: Sequence[str]) -> None:
    """Whatever goes along can be read by everybody on the cluster."""
    found = [place for file in files if str(file) not in not_secret for place in _secrets_in(code, file)]
    if found:
        raise BadInput(
            f"looks like a secret: {', '.join(found[:5])}" + (f" and {len(found) - 5} more" if len(found) > 5 else ""),
            where=str(code),
            remedy="keep secrets in the environment of the cluster and the file in .gitignore; "
            "if it is none, say so by --not-secret FILE",
        )


def _secrets_in(code: Path, file: Path) -> Iterator[str]:
    with (code / file).open("rb") as stream:
        text = stream.read(MOST_SCANNED_BYTES)
    for number, line in enumerate(text.splitlines(), 1):
        if SECRET_TEXTS.search(line):
            yield f"{file}:{number}"
