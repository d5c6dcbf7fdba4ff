"""A config from its files, checked as far as it can be without data and machines, its paths written out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.paths import with_absolute_paths
from orchestrator.config.load import Values, load_config
from orchestrator.config.problems import Problem, config_error, locate
from orchestrator.config.run import RunConfig
from orchestrator.core.dotted import is_dotted, look_for_code_in
from orchestrator.data.decoding.check import check_reading
from orchestrator.prepare.check import check_preparing
from orchestrator.train.augment.check import check_augment

NEEDED = {"image_classification": ("image", "label"), "text_classification": ("text", "label")}


def load_checked(given: Path | Values, overlays: Sequence[Path], sets: Sequence[str]) -> RunConfig:
    loaded = load_config(given, overlays, sets)
    config = with_absolute_paths(loaded.config)
    look_for_code_in(config.code)
    problems = [*check_reading(config.data), *_check_fields(config), *check_preparing(config), *_check_own(config)]
    problems += check_augment(config.data)
    if problems:
        raise config_error(locate(problems, loaded.provenance))
    return config


def _check_fields(config: RunConfig) -> Iterator[Problem]:
    """A task that reads samples learns from certain fields."""
    missing = [name for name in NEEDED.get(config.task.name, ()) if name not in (config.data.fields or ())]
    if missing:
        yield Problem("data.fields", f"{config.task.name} needs {' and '.join(missing)} too")


def _check_own(config: RunConfig) -> Iterator[Problem]:
    """The user's own task and step, where there are such: torch is waited for then only."""
    if config.task.step is not None or is_dotted(config.task.name):
        from orchestrator.train.tasks.own import check_own

        yield from check_own(config)
