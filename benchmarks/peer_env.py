"""A Python for the peers: this one if it has Ray Train, or an environment of their own with the same versions."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from packaging.version import Version

SAME_AS_HERE = ("torch", "deepspeed", "ray", "transformers", "PyYAML")


def peer_python(folder: Path) -> str:
    """The interpreter to run peers with; made in `folder` when there is none yet."""
    if _has_ray_train(sys.executable):
        return sys.executable
    python = str(folder.absolute() / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if not _has_ray_train(python):
        print(f"installing the peers into {folder}")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *map(_requirement, SAME_AS_HERE)], check=True)
    return python


def _requirement(name: str) -> str:
    version = Version(importlib.metadata.version(name)).public  # an index may not know builds like +cpu
    return f"{name}[train]=={version}" if name == "ray" else f"{name}=={version}"


def _has_ray_train(python: str) -> bool:
    return subprocess.run([python, "-c", "import ray.train.torch"], capture_output=True, check=False).returncode == 0
