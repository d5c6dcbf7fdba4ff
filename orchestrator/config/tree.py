"""YAML text -> a tree of plain values in which every value knows its line. load.py lays such trees over each other.

Plain words follow YAML 1.2 instead of PyYAML's 1.1: `1e-3` is a number, while `on`, `off`, `yes`, `no`, dates, `012`
and `.nan` stay text, so that `mode: off` means what it says. Mapping keys are always text."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from orchestrator.config.problems import Origin, UnreadableYaml

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML built without libyaml: slower, otherwise the same
    from yaml import SafeLoader  # type: ignore[assignment]

_TAG = "tag:yaml.org,2002:"
_DIGITS, _POWER = r"(?:0|[1-9](?:_?[0-9])*)", r"[eE][-+]?[0-9]+"
_PLAIN = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": rf"[-+]?{_DIGITS}",
    "float": rf"[-+]?(?:{_DIGITS}\.[0-9]*(?:{_POWER})?|\.[0-9]+(?:{_POWER})?|{_DIGITS}{_POWER})",
}
_RESOLVERS: dict[Any, Any] = {None: [(_TAG + kind, re.compile(f"^(?:{words})$")) for kind, words in _PLAIN.items()]}
_SCALARS: dict[str, Callable[[str], Any]] = {
    _TAG + "null": lambda _: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": int,
    _TAG + "float": float,
    _TAG + "str": str,
}


class ConfigLoader(SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS


class ConfigDumper(yaml.SafeDumper):
    """Writes what ConfigLoader reads back: quotes exactly the text that would be taken for something else."""

    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  PyYAML's signature
        return True

    def represent_text(self, text: str) -> Node:
        # Left to itself PyYAML writes rare line breaks such as U+0085 in a way that reads back as spaces.
        return self.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


ConfigDumper.add_representer(str, ConfigDumper.represent_text)


@dataclass
class Tree:
    """Nested values and, by dotted key, the origin of every value and section."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def lay(self, over: "Tree") -> None:
        """Lay another tree over this one: mappings merge, everything else is replaced."""
        self.origins.setdefault("", over.origins[""])
        self.merge(self.values, over.values, "", over.origins)

    def merge(self, below: dict[str, Any], above: dict[str, Any], prefix: str, origins: dict[str, Origin]) -> None:
        """Lay `above` over `below`, a mapping of this tree whose keys begin with `prefix`."""
        for name, value in above.items():
            key = f"{prefix}{name}"
            if isinstance(value, dict) and isinstance(below.get(name), dict):
                self.merge(below[name], value, f"{key}.", origins)
            else:
                below[name] = value
                self.replace_origins(key, origins)

    def replace_origins(self, key: str, origins: dict[str, Origin]) -> None:
        """Forget where `key` and all below it came from, and take that from `origins`."""
        self.origins = {k: o for k, o in self.origins.items() if not _is_at_or_below(k, key)}
        self.origins |= {k: o for k, o in origins.items() if _is_at_or_below(k, key)}


def _is_at_or_below(key: str, top: str) -> bool:
    return key == top or key.startswith(f"{top}.")


def leaves(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested structure; lists of plain values are leaves."""
    items: Any = ()
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list) and any(isinstance(item, dict) for item in values):
        items = enumerate(values)
    if not items:
        yield key, values
    for name, value in items:
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def parse_yaml(text: str, place: Callable[[int], Origin], problems: list[str]) -> tuple[Any, dict[str, Origin]]:
    """The values of one document and their origins; `place` makes an origin of a line.

    Flaws that leave the rest readable go to `problems`."""
    try:
        node = ConfigLoader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UnreadableYaml(f"{place(line)}: is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UnreadableYaml(f"{place(1)}: is not a YAML text: it holds characters that no text has") from error
    reader = _Reader(place, problems)
    return (None if node is None else reader.read(node, "", ())), reader.origins


@dataclass
class _Reader:
    place: Callable[[int], Origin]
    problems: list[str]
    origins: dict[str, Origin] = field(default_factory=dict)

    def read(self, node: Node, key: str, inside: tuple[Node, ...]) -> Any:
        self.origins[key] = self._place(node)
        if node in inside:
            self._complain(node, key, "an alias must not stand inside its own anchor")
            return None
        if isinstance(node, MappingNode):
            return self._read_mapping(node, key, (*inside, node))
        if isinstance(node, SequenceNode):
            return [self.read(item, _join(key, i), (*inside, node)) for i, item in enumerate(node.value)]
        return self._read_scalar(node, key)

    def _read_mapping(self, node: MappingNode, key: str, inside: tuple[Node, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            if not isinstance(name_node, ScalarNode):
                self._complain(name_node, key, "a key must be a word")
                continue
            name = _join(key, name_node.value)
            if name_node.value in values:
                self._complain(name_node, name, f"written twice; first on line {self.origins[name].line}")
                continue
            values[name_node.value] = self.read(value_node, name, inside)
            self.origins[name] = self._place(name_node)
        return values

    def _read_scalar(self, node: Node, key: str) -> Any:
        make = _SCALARS.get(node.tag)
        if make is None:
            self._complain(node, key, f"the tag {node.tag.removeprefix(_TAG)} has no meaning in a config")
            return None
        try:
            value = make(node.value)
        except ValueError:  # an explicit tag on a word that does not fit, such as !!int ten
            self._complain(node, key, f"{node.value} is no {node.tag.removeprefix(_TAG)}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._complain(node, key, f"{node.value} is too large a number")
            return None
        return value

    def _place(self, node: Node) -> Origin:
        return self.place(node.start_mark.line + 1)

    def _complain(self, node: Node, key: str, message: str) -> None:
        self.problems.append(f"{self._place(node)}: {key}: {message}" if key else f"{self._place(node)}: {message}")


def _join(key: str, name: str | int) -> str:
    return f"{key}.{name}" if key else str(name)
