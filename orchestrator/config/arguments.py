"""What is wrong with the arguments that a config gives a function: of a table of ours, or a user's.

The rooms that have such tables (decoding, cleaning) find the function; check.py of each calls this."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.config.problems import Problem, nearest, shown


def name_parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # some functions written in C do not tell
        return {}


def check_arguments(
    name: str, args: Mapping[str, Any], function: Callable[..., Any], given: Collection[str], ours: bool, key: str
) -> Iterator[Problem]:
    """`given` are the parameters that no config sets; values are checked where the function is `ours`."""
    parameters = name_parameters(function)
    takes_any = not parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    own = {word: one for word, one in parameters.items() if word not in given and one.kind not in variable}
    for word, value in args.items():
        if word not in own and not takes_any:
            yield Problem(f"{key}.args.{word}", f"{name} has no such argument{nearest(word, own)}", shown(value))
        elif ours:
            yield from _check_value(own[word].annotation, value, f"{key}.args.{word}")
    for word, one in own.items():
        if one.default is one.empty and word not in args:
            yield Problem(f"{key}.args", f"{name} needs the argument '{word}'")


def _check_value(annotation: Any, value: Any, key: str) -> Iterator[Problem]:
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        reasons = "; or ".join(dict.fromkeys(detail["msg"] for detail in error.errors(include_url=False)))
        plain = reasons.replace("Input should be", "must be").replace("an instance of Sequence", "a list")
        yield Problem(key, plain, shown(value))
