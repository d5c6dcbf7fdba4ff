"""The first thing a job does on a cluster: look whether the Python there can run Longhaul. Then it is the command line.

Only the standard library and what Ray brings may be imported before that."""

import importlib.metadata
import platform
import sys

from launch.checks.packages import check_packages, check_python, installed_versions
from orchestrator.core.words import ExitCode

_REMEDY = "install what Longhaul requires there, on every node; Longhaul itself is sent along"


def main() -> None:
    checks = [
        check_python(platform.python_version(), importlib.metadata.metadata("longhaul")["Requires-Python"]),
        check_packages(importlib.metadata.requires, installed_versions()),
    ]
    if problems := [check.detail for check in checks if check.level == "problem"]:
        print(f"longhaul: {sys.executable} on the cluster: {'; '.join(problems)}\n  -> {_REMEDY}", file=sys.stderr)
        sys.exit(ExitCode.BAD_INPUT)
    from launch.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
