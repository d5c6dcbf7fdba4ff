"""What the processes of the control corridor import: who loads torch while it is to answer, is deaf for seconds."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("room", ["controller", "node", "scribe", "start"])
def test_neither_controller_nor_node_actor_nor_scribe_imports_torch(room: str) -> None:
    code = f"import sys, orchestrator.control.{room}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
