"""What is wrong with data.fields and data.transforms, found in the launcher before anything starts."""

from collections.abc import Iterator

from orchestrator.config.arguments import check_arguments, name_parameters
from orchestrator.config.data import DataSection
from orchestrator.config.problems import Problem, shown
from orchestrator.config.reading import FieldSection, TransformSection
from orchestrator.core.errors import ConfigError
from orchestrator.data.decoding.decode import decoder_for
from orchestrator.data.decoding.transform import TRANSFORMS, transform_for


def check_reading(data: DataSection) -> list[Problem]:
    """Every decoder and transform is found and every argument fits, or why not. Imports the users' functions."""
    problems = [problem for name, one in (data.fields or {}).items() for problem in _check_field(name, one)]
    problems += [
        problem for i, one in enumerate(data.transforms) for problem in _check_step(f"data.transforms.{i}", one)
    ]
    return problems


def _check_field(name: str, field: FieldSection) -> Iterator[Problem]:
    by_suffix = field.decode == "auto"
    for i, suffix in enumerate(field.members if by_suffix else field.members[:1]):
        key = f"data.fields.{name}.members.{i}" if by_suffix else f"data.fields.{name}.decode"
        try:
            decoder_for(field.decode, suffix, key)
        except ConfigError as error:
            yield Problem(key, f"{error.message}; {error.remedy}", shown(suffix if by_suffix else field.decode))


def _check_step(key: str, step: TransformSection) -> Iterator[Problem]:
    try:
        function = transform_for(step.name, f"{key}.name")
    except ConfigError as error:
        yield Problem(f"{key}.name", f"{error.message}; {error.remedy}", shown(step.name))
        return
    if step.field is None and step.name in TRANSFORMS:
        yield Problem(f"{key}.field", f"{step.name} changes one field: name it")
    given = (next(iter(name_parameters(function)), ""), "draw")  # the value comes first, whatever it is called
    yield from check_arguments(step.name, step.args, function, given, step.name in TRANSFORMS, key)
