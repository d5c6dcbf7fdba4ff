"""What holds for all tests."""

import os

import pytest
from hypothesis import settings

MOST_WORKERS = 4  # each imports the training stack, which takes half a gigabyte

settings.register_profile("longhaul", deadline=None)  # how fast an example runs says how busy the machine is
settings.load_profile("longhaul")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Test files go to as many processes as there are cores. Drills start clusters of their own: one after another."""
    return min(MOST_WORKERS, os.cpu_count() or 1) if config.option.markexpr == "not cluster" else 0
