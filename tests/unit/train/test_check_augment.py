"""What the launcher says of data.augment and data.mixup before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.config.check import check_config
from orchestrator.config.compare import check_resume
from orchestrator.config.data import DataSection
from orchestrator.core.errors import ConfigError
from orchestrator.train.augment.changes import CHANGES
from orchestrator.train.augment.check import check_augment
from tests.fakes.changes import EVERYTHING
from tests.fakes.pictures import FIELDS
from tests.fakes.small_runs import picture_config, small_config

NORMALIZE = {"name": "normalize", "args": {"mean": [0.5], "std": [0.5]}}


def problems(*steps) -> list[str]:
    return told_of({"augment": list(steps)})


def told_of(section) -> list[str]:
    data = DataSection.model_validate({"train": [{"path": "data/x"}], "fields": FIELDS} | section)
    return [str(problem) for problem in check_augment(data)]


def test_what_can_be_done_has_no_problems():
    assert problems(*EVERYTHING) == []
    assert problems({"name": "crop", "args": {"size": [20, 10]}}, NORMALIZE, {"name": "flip", "p": 0.5}) == []


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"name": "rotat"}, "name: there is no change 'rotat'; did you mean 'rotate'?; one of rotate, shear, "),
        ({"name": "rotate"}, "args: rotate needs the argument 'degrees'"),
        (
            {"name": "rotate", "args": {"degree": [1, 2], "degrees": [1, 2]}},
            "args.degree: rotate has no such argument; did you mean 'degrees'? ([1, 2])",
        ),
        (
            {"name": "rotate", "args": {"degrees": [10, -10]}},
            "args.degrees: must be a list of the lowest and the highest, in this order ([10, -10])",
        ),
        ({"name": "rotate", "args": {"degrees": 10}}, "args.degrees: must be a list (10)"),
        (
            {"name": "rotate", "args": {"degrees": [0, 200]}},
            "args.degrees: must be less than or equal to 180 ([0, 200])",
        ),
        ({"name": "shear", "args": {"x": [0, 90]}}, "args.x: must be less than 90 ([0, 90])"),
        ({"name": "zoom", "args": {"factor": [0, 1]}}, "args.factor: must be greater than 0 ([0, 1])"),
        (
            {"name": "contrast", "args": {"factor": [-1, 1]}},
            "args.factor: must be greater than or equal to 0 ([-1, 1])",
        ),
        (
            {"name": "flip", "p": 0.5, "args": {"direction": "left"}},
            "args.direction: must be 'left_right' or 'up_down' (left)",
        ),
        (
            {"name": "flip"},
            "p: every picture would be flipped, and none in evaluation: set it, for example to 0.5",
        ),
        (NORMALIZE | {"p": 0.5}, "p: normalize happens to every picture, in evaluation too: leave it out (0.5)"),
        ({"name": "crop", "args": {"size": 8, "drawn": 1}}, "args.drawn: crop has no such argument (1)"),
    ],
)
def test_changes_and_arguments_are_checked(step, said):
    (told,) = problems(step)
    assert told.startswith(f"data.augment.0.{said}")


def test_colours_come_before_scales():
    hue = {"name": "hue", "args": {"degrees": [-10, 10]}}
    assert problems(NORMALIZE, hue) == ["data.augment.1.name: needs pixels from 0 to 1, before normalize (hue)"]
    (told,) = told_of({"augment": [hue], "transforms": [NORMALIZE | {"field": "image"}]})
    assert told == "data.augment.0.name: needs pixels from 0 to 1, before normalize of data.transforms (hue)"


@pytest.mark.parametrize("section", [{"augment": [NORMALIZE]}, {"mixup": {"alpha": 0.2}}])
def test_tasks_without_pictures_are_refused(section):
    (key,) = section
    values = small_config().model_dump(mode="json", exclude_unset=True)
    values["data"] |= section
    (problem,) = check_config(values)
    assert str(problem) == f"data.{key}: changes pictures, and causal_lm has none: leave it out"
    picture_config(data=section)
    values |= {"task": {"name": "mine.tasks:Pictures"}}
    told = check_config(values)
    assert not isinstance(told, list) or not any("changes pictures" in str(problem) for problem in told)


def test_changing_changes_makes_another_run():
    plain = picture_config()
    for section in ({"augment": [NORMALIZE]}, {"mixup": {"alpha": 0.3}}):
        with pytest.raises(ConfigError, match="makes another run"):
            check_resume(plain, picture_config(data=section))


def test_checking_imports_no_training_stack():
    script = (
        "import sys, orchestrator.train.augment.check; sys.exit(any(m in sys.modules for m in ('torch', 'kornia')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


def test_the_guide_has_every_change_and_an_example_that_works():
    guide = (Path(__file__).parents[3] / "docs/augment.md").read_text()
    for name in CHANGES:
        assert f"| `{name}` |" in guide, name
    example = yaml.safe_load(guide.partition("```yaml\n")[2].partition("```")[0])
    assert problems(*example["data"]["augment"]) == []
    picture_config(data=example["data"])
