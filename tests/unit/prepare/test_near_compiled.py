import os
import subprocess
import sys

WORK = """
from orchestrator.prepare.near.compiled import CACHE, enlarge
import numpy as np
print(CACHE, enlarge(np.arange(2), 3)[:2].tolist())
"""


def run_with_cache(folder: str) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WORK], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_where_nothing_can_be_written_each_process_compiles_for_itself():
    assert run_with_cache("/dev/null/nowhere") == "None [0, 1]"


def test_compiled_code_is_kept_where_the_user_wants_it(tmp_path):
    folder, _, numbers = run_with_cache(str(tmp_path)).partition(" ")
    assert numbers == "[0, 1]"
    assert folder.startswith(f"{tmp_path}/longhaul/")
    assert list(tmp_path.rglob("*enlarge*.nbi"))
