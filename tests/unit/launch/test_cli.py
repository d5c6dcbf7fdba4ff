"""The command line as a process: how it ends."""

import subprocess
import sys

import pytest

# What a person does who presses Ctrl-C once more while the process is on its way out.
PRESS_LATE = """
import atexit, signal, sys
from launch.cli import main
atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv = ["longhaul", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(("arguments", "code", "said"), [("--help", 0, ""), ("config show no.yaml", 2, "longhaul: ")])
def test_ctrl_c_after_the_command_has_ended_prints_nothing(arguments: str, code: int, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PRESS_LATE, *arguments.split()], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code
    assert ended.stderr.startswith(said)
    assert "KeyboardInterrupt" not in ended.stderr
