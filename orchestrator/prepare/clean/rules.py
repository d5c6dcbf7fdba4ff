"""The table of rules that the config chooses from, and what a rule is given.

A rule is a plain function. It is given what it names among GIVEN, and the arguments of its step. It returns None to
keep the sample, Unfit(reason) to drop it, or the altered text."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.config.arguments import check_arguments, name_parameters
from orchestrator.config.preparing import CleanStep
from orchestrator.config.problems import Problem, nearest, shown
from orchestrator.core.dotted import find_function, is_dotted
from orchestrator.core.errors import ConfigError
from orchestrator.prepare.clean.c4 import c4
from orchestrator.prepare.clean.fineweb import fineweb_quality
from orchestrator.prepare.clean.gopher import gopher_quality, stop_words
from orchestrator.prepare.clean.language import language
from orchestrator.prepare.clean.masks import mask_email, mask_ip
from orchestrator.prepare.clean.metadata import field
from orchestrator.prepare.clean.pictures import aspect, image_size, undecodable
from orchestrator.prepare.clean.ratios import digit_ratio, length, punctuation_ratio, symbol_ratio, uppercase_ratio
from orchestrator.prepare.clean.repair import control_characters, fix_unicode, whitespace
from orchestrator.prepare.clean.repetition import (
    gopher_repetition,
    repeated_lines,
    repeated_ngrams,
    repeated_paragraphs,
)
from orchestrator.prepare.clean.tables import check_table_step, missing, outliers

GIVEN = ("text", "meta", "members", "statistics")
_ALTERING = (fix_unicode, control_characters, whitespace, c4, mask_email, mask_ip)
RULES: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *_ALTERING,
        *(length, symbol_ratio, digit_ratio, uppercase_ratio, punctuation_ratio),
        *(repeated_lines, repeated_paragraphs, repeated_ngrams, gopher_repetition),
        *(gopher_quality, stop_words, fineweb_quality, language, field),
        *(undecodable, image_size, aspect, missing, outliers),
    )
}


def rule_for(name: str, key: str) -> Callable[..., Any]:
    """The function a step names; `key` is where the config says so."""
    if is_dotted(name):
        return find_function(name, key)
    if name not in RULES:
        raise ConfigError(
            f"there is no rule '{name}'{nearest(name, RULES)}",
            where=key,
            remedy=f"one of {', '.join(RULES)}, or a function's dotted name",
        )
    return RULES[name]


def what_it_is_given(function: Callable[..., Any]) -> frozenset[str]:
    """Of GIVEN, what the function has a parameter for."""
    return frozenset(GIVEN) & name_parameters(function).keys()


def may_alter(function: Callable[..., Any]) -> bool:
    """Whether it may return a text: those of the table that do, and users' functions that are given one."""
    if function in RULES.values():
        return function in _ALTERING
    return "text" in what_it_is_given(function)


def check_clean(steps: Sequence[CleanStep], fields: Collection[str] | None = None) -> list[Problem]:
    """Every rule is found and every argument fits, or why not. Imports the users' functions.

    `fields` are the names of data.fields, None where samples are texts."""
    return [problem for i, step in enumerate(steps) for problem in _check_step(step, fields, f"prepare.clean.{i}")]


def _check_step(step: CleanStep, fields: Collection[str] | None, key: str) -> Iterator[Problem]:
    try:
        function = rule_for(step.name, f"{key}.name")
    except ConfigError as error:
        yield Problem(f"{key}.name", f"{error.message}; {error.remedy}", shown(step.name))
        return
    given = what_it_is_given(function)
    yield from check_arguments(step.name, step.args, function, GIVEN, step.name in RULES, key)
    yield from check_table_step(step, key)
    if not given:
        yield Problem(f"{key}.name", f"it looks at nothing: name a parameter {', '.join(GIVEN)}", shown(step.name))
    if "text" in given and fields is not None:
        yield Problem(f"{key}.name", "it looks at texts, and these samples are data.fields", shown(step.name))
    if "members" in given and fields is None:
        yield Problem(f"{key}.name", "it looks at data.fields, and these samples are texts", shown(step.name))
    if "members" in given and fields is not None and step.name in RULES:
        field_name = step.args.get("field", "image")
        if field_name not in fields:
            near = nearest(str(field_name), fields)
            yield Problem(f"{key}.args.field", f"data.fields has no such field{near}", shown(field_name))
