"""Plain values -> RunConfig, or every problem in words a person can act on.

Comes after load.py's merging; the only place that sees pydantic's errors."""

import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config.marks import Section
from orchestrator.config.problems import Origin, Problem, WrongValues, config_error, locate, nearest, shown
from orchestrator.config.run import RunConfig

_MUST_BE = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text: put it in quotes",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section with keys of its own",
    "model_type": "a section with keys of its own",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text that is not empty",
}


def check_config(values: Mapping[str, Any]) -> RunConfig | list[Problem]:
    """The config these values make, or what is wrong with them."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        return list(_explain(error))


def replace_values(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The same config with the values of some dotted keys replaced, checked anew."""
    values = config.model_dump(mode="json")
    for key, value in changes.items():
        *sections, name = key.split(".")
        here = values
        for section in sections:
            here = here[section]
        here[name] = value
    checked = check_config(values)
    if isinstance(checked, RunConfig):
        return checked
    raise config_error(locate(checked, {key: Origin(f"{key}={shown(value)}") for key, value in changes.items()}))


def known_keys(section: type[Section] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key there is; inside lists without their index."""
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        yield prefix + name
        if inner:
            yield from known_keys(inner, f"{prefix}{name}.")


def _explain(error: ValidationError) -> Iterator[Problem]:
    by_key: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_written_key(detail["loc"]), []).append(detail)
    for key, details in by_key.items():
        first = details[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, WrongValues):
            yield from cause.problems
        elif first["type"] == "value_error":
            yield Problem(key, str(cause))
        elif first["type"] == "missing":
            yield Problem(key, f"is missing: {_description(first['loc'])}")
        elif first["type"] == "extra_forbidden":
            yield Problem(key, "unknown key" + _suggest_key(first["loc"]))
        elif first["type"] == "string_pattern_mismatch":
            yield Problem(key, f"does not fit: {_description(first['loc'])}", shown(first["input"]))
        else:
            # Alternatives (a number or "auto") come as one error each; people see one sentence.
            wanted = " or ".join(dict.fromkeys(map(_wanted, details)))
            yield Problem(key, f"must be {wanted}{_suggest_choice(details)}", shown(first["input"]))


def _wanted(detail: ErrorDetails) -> str:
    if detail["type"] == "literal_error":
        return " or ".join(_choices(detail))
    phrase = _MUST_BE.get(detail["type"])
    return phrase.format(**detail.get("ctx", {})) if phrase else f"otherwise: {detail['msg']}"


def _choices(detail: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", detail["ctx"]["expected"])


def _suggest_choice(details: list[ErrorDetails]) -> str:
    choices = [choice for detail in details if detail["type"] == "literal_error" for choice in _choices(detail)]
    value = details[0]["input"]
    return nearest(value, choices) if isinstance(value, str) else ""


def _suggest_key(loc: tuple[int | str, ...]) -> str:
    section = _type_at(loc[:-1])
    name = str(loc[-1])
    close = nearest(name, section.model_fields) if isinstance(section, type) and issubclass(section, Section) else ""
    if close:
        return close
    elsewhere = [key for key in known_keys() if key.rpartition(".")[2] == name]
    return f"; did you mean '{min(elsewhere, key=len)}'?" if elsewhere else ""


def _description(loc: tuple[int | str, ...]) -> str:
    section = _type_at(loc[:-1])
    if isinstance(section, type) and issubclass(section, Section):
        return section.model_fields[str(loc[-1])].description or ""
    return "one value more is needed"


def _type_at(loc: tuple[int | str, ...]) -> Any:
    here: Any = RunConfig
    for part in loc:
        here = _inside(here, part)
    return here


def _written_key(loc: tuple[int | str, ...]) -> str:
    """The key as it is written in YAML: without pydantic's names for the alternatives of a union."""
    here: Any = RunConfig
    parts: list[str] = []
    for part in loc:
        here = _inside(here, part)
        if here is None:
            break
        parts.append(str(part))
    return ".".join(parts)


def _inside(kind: Any, part: int | str) -> Any:
    """The type of one part of a value of this type; None when such a value has no parts."""
    kind = _plain_type(kind)
    if isinstance(kind, type) and issubclass(kind, Section):
        field = kind.model_fields.get(str(part))
        return field.annotation if field else Any
    arguments = get_args(kind)
    if get_origin(kind) in (list, tuple):
        return arguments[0] if isinstance(part, int) else None
    return arguments[1] if get_origin(kind) is dict else None


def _plain_type(kind: Any) -> Any:
    """Without Annotated and `| None`."""
    if get_origin(kind) is Annotated:
        return _plain_type(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        rest = [argument for argument in get_args(kind) if argument is not type(None)]
        return _plain_type(rest[0]) if len(rest) == 1 else kind
    return kind


def _section_in(kind: Any) -> type[Section] | None:
    """The section that a field holds, alone or in a list."""
    kind = _plain_type(kind)
    if get_origin(kind) is list:
        kind = _plain_type(get_args(kind)[0])
    if get_origin(kind) is Literal or not isinstance(kind, type):
        return None
    return kind if issubclass(kind, Section) else None
