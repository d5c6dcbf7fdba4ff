"""A config from its files, checked as far as it can be without data and machines, its paths written out."""

from collections.abc import Sequence
from pathlib import Path

from launch.paths import with_absolute_paths
from orchestrator.config.load import load_config
from orchestrator.config.problems import config_error, locate
from orchestrator.config.run import RunConfig
from orchestrator.data.check_reading import check_reading


def load_checked(path: Path, overlays: Sequence[Path], sets: Sequence[str]) -> RunConfig:
    loaded = load_config(path, overlays, sets)
    problems = check_reading(loaded.config.data)
    if problems:
        raise config_error(locate(problems, loaded.provenance))
    return with_absolute_paths(loaded.config)
