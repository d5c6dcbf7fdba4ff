"""What the launcher says of data.fields and data.transforms before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.config.data import DataSection
from orchestrator.data.decoding.check import check_reading
from orchestrator.data.decoding.decode import DECODERS, PICKLES, SUFFIXES
from orchestrator.data.decoding.transform import TRANSFORMS

FAKES = "tests.fakes.transforms"


def problems(fields=None, *transforms) -> list[str]:
    fields = fields or {"image": {"members": ["jpg", "png"]}, "label": {"members": ["cls"]}}
    section = {"train": [{"path": "data/x"}], "fields": fields, "transforms": list(transforms)}
    return [str(problem) for problem in check_reading(DataSection.model_validate(section))]


def test_what_can_be_read_has_no_problems():
    steps = [
        {"name": "random_resized_crop", "field": "image", "args": {"size": 224, "scale": [0.25, 1]}},
        {"name": "random_crop", "field": "image", "args": {"size": [10, 20], "padding": 4, "drawn_as": "second"}},
        {"name": "normalize", "field": "image", "args": {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}},
        {"name": f"{FAKES}:shade", "field": "image", "args": {"depth": 2.0}},
        {"name": f"{FAKES}:mirror_both"},
        {"name": "math.floor", "field": "label"},
    ]
    assert problems(None, *steps) == []


def test_packed_tokens_have_nothing_to_check():
    assert check_reading(DataSection.model_validate({"train": [{"path": "data/x"}]})) == []


def test_every_problem_is_told_with_its_key_value_and_way_out():
    told = problems(
        {
            "image": {"members": ["jpg", "jpgg"]},
            "label": {"members": ["pkl"]},
            "text": {"members": ["txt"], "decode": "tetx"},
            "marks": {"members": ["a", "b"], "decode": f"{FAKES}:conut_marks"},
        },
        {"name": "rezise", "field": "image"},
        {"name": f"{FAKES}:NOT_A_FUNCTION", "field": "image"},
    )
    assert [line.partition(";")[0] for line in told] == [
        "data.fields.image.members.1: no decoder is known for 'jpgg' members",
        "data.fields.label.members.0: 'pkl' members are pickles, and reading one runs code that is in the data",
        "data.fields.text.decode: there is no decoder 'tetx'",
        "data.fields.marks.decode: 'tests.fakes.transforms:conut_marks' cannot be imported: AttributeError: "
        "module 'tests.fakes.transforms' has no attribute 'conut_marks'",
        "data.transforms.0.name: there is no transform 'rezise'",
        "data.transforms.1.name: 'tests.fakes.transforms:NOT_A_FUNCTION' is a int, not a function",
    ]
    assert "did you mean 'text'?" in told[2]
    assert told[2].endswith("(tetx)")
    assert "did you mean 'resize'?" in told[4]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"name": "resize", "args": {"size": 3}}, "field: resize changes one field: name it"),
        ({"name": "resize", "field": "image"}, "args: resize needs the argument 'size'"),
        (
            {"name": "resize", "field": "image", "args": {"sise": 3, "size": 3}},
            "args.sise: resize has no such argument; did you mean 'size'? (3)",
        ),
        (
            {"name": "resize", "field": "image", "args": {"size": 3, "filter": "cubic"}},
            "args.filter: must be 'nearest', 'bilinear', 'bicubic' or 'lanczos' (cubic)",
        ),
        (
            {"name": "random_flip", "field": "image", "args": {"p": 2}},
            "args.p: must be less than or equal to 1 (2)",
        ),
        (
            {"name": "random_flip", "field": "image", "args": {"draw": 2}},
            "args.draw: random_flip has no such argument; did you mean 'drawn_as'? (2)",
        ),
        ({"name": f"{FAKES}:keep_long", "field": "label"}, f"args: {FAKES}:keep_long needs the argument 'letters'"),
        (
            {"name": f"{FAKES}:shade", "field": "image", "args": {"dept": 1}},
            f"args.dept: {FAKES}:shade has no such argument; did you mean 'depth'? (1)",
        ),
    ],
)
def test_arguments_are_checked(step, said):
    assert problems(None, step) == [f"data.transforms.0.{said}"]


@pytest.mark.parametrize("size", [0, [3], [3, 0], "3", 2.5, None])
def test_sizes_are_whole_numbers_above_zero_or_two_of_them(size):
    (told,) = problems(None, {"name": "center_crop", "field": "image", "args": {"size": size}})
    assert told.startswith("data.transforms.0.args.size: must be ")


def test_checking_imports_no_training_stack():
    script = "import sys, orchestrator.data.decoding.check; sys.exit(any(m in sys.modules for m in ('torch', 'ray')))"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


def test_the_guide_has_every_decoder_suffix_and_transform_and_an_example_that_works():
    guide = (Path(__file__).parents[3] / "docs/data.md").read_text()
    for name in (*DECODERS, *SUFFIXES, *PICKLES, *TRANSFORMS):
        assert f"`{name}`" in guide, name
    example = yaml.safe_load(guide.partition("```yaml\n")[2].partition("```")[0])
    assert check_reading(DataSection.model_validate(example["data"])) == []
