"""The Cleaner: order of steps, users' functions, faults, pickling; and what is wrong with prepare.clean."""

import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.preparing import CleanStep, PrepareSection
from orchestrator.prepare.clean.cleaner import Cleaner, CleaningFailed
from orchestrator.prepare.clean.rules import GIVEN, RULES, check_clean
from orchestrator.prepare.clean.sample import Removal, Sample

MINE = "tests.fakes.clean_rules"


def step(name: str, **args: Any) -> CleanStep:
    return CleanStep(name=name, args=args)


def cleaner(*steps: CleanStep) -> Cleaner:
    return Cleaner.of(steps)


def test_the_first_rule_that_drops_a_sample_names_it() -> None:
    two = [step("length", min_characters=3), step("length", min_words=2)]
    assert cleaner(*two).judge([Sample("a"), Sample("abc"), Sample("ab cd")]) == [
        Removal("length", "1 characters, fewer than 3"),
        Removal("length", "1 words, fewer than 2"),
        None,
    ]
    (first,) = cleaner(*reversed(two)).judge([Sample("a")])
    assert str(first) == "length: 1 words, fewer than 2"


def test_later_steps_see_the_text_as_altered() -> None:
    sample = Sample("a\x00\x00\x00")
    assert cleaner(step("length", min_characters=3), step("control_characters")).judge([sample]) == [None]
    (removal,) = cleaner(step("control_characters"), step("length", min_characters=3)).judge([sample])
    assert removal == Removal("length", "1 characters, fewer than 3")


def test_altering_steps_come_in_order_and_others_do_not_run() -> None:
    one = cleaner(step("whitespace"), step("length", min_characters=100), step("mask_email"), step(f"{MINE}:shout"))
    assert one.alter([Sample("a  b@c.org "), Sample("")]) == ["A EMAIL@EXAMPLE.COM!", "!"]
    assert one.alters
    assert not cleaner(step("length")).alters
    assert cleaner(step("length")).alter([Sample("a  b")]) == ["a  b"]
    assert cleaner(step(f"{MINE}:first_byte", wanted=1)).alter([Sample("a")]) == ["a"]  # it would fail


def test_verdicts_do_not_depend_on_neighbours() -> None:
    one = cleaner(step("c4"), step("gopher_quality"), step("gopher_repetition"), step("mask_ip"))
    samples = [Sample(text) for text in ("a", "The end of it. " * 60, "", "8.8.8.8", "x y z. " * 9)]
    assert one.judge(samples) == [one.judge([sample])[0] for sample in samples]
    assert one.alter(samples) == [one.alter([sample])[0] for sample in samples]


def test_a_text_of_which_nothing_is_left_goes() -> None:
    (removal, empty) = cleaner(step("whitespace"), step("mask_ip")).judge([Sample(" \n "), Sample("")])
    assert removal == Removal("whitespace", "nothing is left of its text")
    assert empty is None  # what was empty before is not for cleaning to say


def test_a_user_function_drops_alters_and_is_given_what_it_names() -> None:
    one = cleaner(step(f"{MINE}.at_most_words", most=2), step(f"{MINE}:is_long"))
    assert one.judge([Sample("a b c", {"by": "me"}), Sample("a"), Sample("long"), Sample("a b c")]) == [
        Removal(f"{MINE}.at_most_words", "3 words of me"),
        Removal(f"{MINE}:is_long", "it says no"),
        None,
        Removal(f"{MINE}.at_most_words", "3 words of None"),
    ]
    assert one.needs_meta
    assert not cleaner(step(f"{MINE}:is_long")).needs_meta
    members = cleaner(step(f"{MINE}:first_byte", wanted=7))
    assert members.judge([Sample(members={"image": b"\x07"})]) == [None]
    assert not members.alters


@pytest.mark.parametrize(("name", "what"), [("fail", "ZeroDivisionError: b"), ("count", "returned a int")])
def test_a_user_function_that_fails_names_itself_and_the_sample(name: str, what: str) -> None:
    one = cleaner(step("length"), step(f"{MINE}:{name}"))
    with pytest.raises(CleaningFailed, match=rf"prepare\.clean\.1: {MINE}:{name} .*{what}"):
        one.judge([Sample("b")])
    with pytest.raises(CleaningFailed) as caught:
        cleaner(step(f"{MINE}:first_byte", wanted=1)).judge([Sample(members={"image": b"\x01"}), Sample()])
    assert caught.value.row == 1
    assert pickle.loads(pickle.dumps(caught.value)).row == 1


def test_a_cleaner_travels_by_its_steps() -> None:
    one = cleaner(step("gopher_quality", min_words=1), step(f"{MINE}:shout"))
    one.judge([Sample("a")])
    sent = pickle.dumps(one)
    assert b"partial" not in sent
    other = pickle.loads(sent)
    assert other == one
    assert other.alter([Sample("a")]) == ["A!"]


def test_good_steps_have_no_problems() -> None:
    needed = {
        "uppercase_ratio": {"max": 0.5},
        "punctuation_ratio": {"max": 1},
        "repeated_ngrams": {"top": [[2, 0.2]], "duplicate": []},
        "language": {"model": "lid.bin", "languages": ["en"]},
        "field": {"key": "a.b", "allow": ["x", 3, None]},
        "missing": {"columns": ["a"]},
        "outliers": {"columns": ["a"], "rule": "range", "low": 0},
        "mask_email": {"stand_ins": ["x"]},
    }
    pictures = {"undecodable", "image_size", "aspect"}
    assert check_clean([step(name, **needed.get(name, {})) for name in RULES if name not in pictures]) == []
    assert check_clean([step(name) for name in sorted(pictures)], fields=["image", "label"]) == []
    assert check_clean([step(f"{MINE}:shout", mark="?"), step(f"{MINE}.at_most_words")]) == []


@pytest.mark.parametrize(
    ("wrong", "key", "message", "value"),
    [
        (
            step("gopher_qualty"),
            "name",
            "there is no rule 'gopher_qualty'; did you mean 'gopher_quality'?",
            "gopher_qualty",
        ),
        (step("length", min_word=3), "args.min_word", "length has no such argument; did you mean 'min_words'?", "3"),
        (step("length", min_words="3"), "args.min_words", "must be a valid integer", '"3"'),
        (step("length", text="a"), "args.text", "length has no such argument", "a"),
        (step("digit_ratio", max=2), "args.max", "must be less than or equal to 1", "2"),
        (step("uppercase_ratio"), "args", "uppercase_ratio needs the argument 'max'", ""),
        (
            step("missing", columns=["a"], rule="mode"),
            "args.rule",
            "must be 'drop', 'mean', 'median' or 'constant'",
            "mode",
        ),
        (step("missing", columns=["a"], rule="constant"), "args", "rule: constant needs the argument 'value'", ""),
        (step("outliers", columns=["a"], rule="range"), "args", "rule: range needs 'low', 'high' or both", ""),
        (step("repeated_ngrams", top=[[2]]), "args.top", "at least 2 items", "[[2]]"),
        (step(f"{MINE}:nowhere"), "name", "cannot be imported", f"{MINE}:nowhere"),
        (step(f"{MINE}:NOT_A_RULE"), "name", "is a int, not a function", f"{MINE}:NOT_A_RULE"),
        (step(f"{MINE}:shout", sign="?"), "args.sign", "has no such argument", '"?"'),
        (step(f"{MINE}:first_byte"), "args", "needs the argument 'wanted'", ""),
        (step(f"{MINE}:nothing"), "name", "it looks at nothing", f"{MINE}:nothing"),
        (step("aspect"), "name", "these samples are texts", "aspect"),
    ],
)
def test_what_is_wrong_with_a_step_is_named(wrong: CleanStep, key: str, message: str, value: str) -> None:
    problems = check_clean([step("length"), wrong])
    found = problems[0]
    assert found.key == f"prepare.clean.1.{key}"
    assert message in found.message
    assert found.value == value


def test_rules_fit_the_kind_of_samples() -> None:
    (text,) = check_clean([step("length")], fields=["image"])
    assert "these samples are data.fields" in text.message
    (field,) = check_clean([step("aspect", field="imag")], fields=["image"])
    assert field.key == "prepare.clean.0.args.field"
    assert field.message == "data.fields has no such field; did you mean 'image'?"


def test_the_guide_has_every_rule_with_its_defaults_and_an_example_that_works() -> None:
    guide = (Path(__file__).parents[3] / "docs/prepare.md").read_text()
    for name, function in RULES.items():
        (row,) = [line for line in guide.splitlines() if line.startswith(f"| `{name}` |")]
        for argument, parameter in inspect.signature(function).parameters.items():
            if argument in GIVEN:
                continue
            if isinstance(parameter.default, str | int | float):
                assert f"`{argument}: {json.dumps(parameter.default).strip(chr(34))}`" in row, (name, argument)
            else:
                assert f"`{argument}" in row, (name, argument)
    example = yaml.safe_load(guide.partition("```yaml\n")[2].partition("```")[0])
    assert check_clean(PrepareSection.model_validate(example["prepare"]).clean) == []
