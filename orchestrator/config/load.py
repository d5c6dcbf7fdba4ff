"""Config file, overlays and `a.b=c` -> RunConfig with the origin of every value, or one error with every problem.

Later ones win: mappings merge, lists and single values are replaced. resolve.py then decides every `auto`."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.check import check_config
from orchestrator.config.problems import DEFAULT, Origin, UnreadableYaml, config_error, cut, locate
from orchestrator.config.run import RunConfig
from orchestrator.config.tree import Tree, leaves, parse_yaml

Values = Mapping[str, Any]  # what a config file holds
GIVEN = Origin("the config")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A config and, by dotted key, where each of its values was written."""

    config: RunConfig
    provenance: dict[str, Origin]


def load_config(given: Path | Values, overlays: Sequence[Path] = (), sets: Sequence[str] = ()) -> Loaded:
    """Read a file, or take what a file would hold; merge and check.

    Raises one ConfigError whose lines name every problem with file and line."""
    tree, flaws, unreadable = Tree(), list[str](), list[str]()
    for source in (given, *overlays):
        try:
            tree.lay(_read_file(source, flaws) if isinstance(source, Path) else _take(source))
        except UnreadableYaml as error:
            unreadable.append(str(error))
    if unreadable:
        raise config_error(unreadable)
    for text in sets:
        _set_value(tree, text, flaws)
    checked = check_config(tree.values)
    problems = [] if isinstance(checked, RunConfig) else locate(checked, tree.origins)
    if flaws or not isinstance(checked, RunConfig):
        raise config_error([*flaws, *problems])
    written = tree.origins
    keys = [key for key, _ in leaves(checked.model_dump(mode="json"))]
    return Loaded(config=checked, provenance={key: written.get(key, DEFAULT) for key in keys})


def _read_file(path: Path, flaws: list[str]) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableYaml(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableYaml(f"{path}: is not a YAML text: it holds bytes that are no UTF-8") from error
    values, origins = parse_yaml(text, lambda line: Origin(str(path), line), flaws)
    if values is None:
        raise UnreadableYaml(f"{path}: is empty")
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else "a single value"
        raise UnreadableYaml(f"{origins['']}: must be a mapping of keys at the top, and is {kind}")
    return Tree(values, origins)


def _take(values: Values) -> Tree:
    return Tree(copy.deepcopy(dict(values)), {"": GIVEN})


def _set_value(tree: Tree, text: str, flaws: list[str]) -> None:
    """Lay one `a.b=c` over the tree. Numbers in the key are places in a list that is already there."""
    origin = Origin(f"command line: {cut(text)}")
    key, equals, written = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        flaws.append(f"{origin}: must be key=value, for example train.steps=100")
        return
    try:
        value, places = parse_yaml(written, lambda _: origin, flaws)
    except UnreadableYaml as error:
        flaws.append(str(error))
        return
    origins = {f"{key}.{inner}" if inner else key: place for inner, place in places.items()} | {key: origin}
    section, _, name = key.rpartition(".")
    here = _find_section(tree, section, origin)
    if isinstance(here, dict):
        tree.merge(here, {name: value}, f"{section}." if section else "", origins)
    elif isinstance(here, list) and name.isdecimal() and int(name) < len(here):
        here[int(name)] = value
        tree.replace_origins(key, origins)
    else:
        flaws.append(f"{origin}: {_why_not(here, section, name)}")


def _find_section(tree: Tree, section: str, origin: Origin) -> Any:
    """The mapping or list at a dotted key, made if there is none yet; anything else where nothing can be put."""
    here: Any = tree.values
    walked = ""
    for part in filter(None, section.split(".")):
        walked = f"{walked}.{part}" if walked else part
        if isinstance(here, list):
            here = here[int(part)] if part.isdecimal() and int(part) < len(here) else None
        elif isinstance(here, dict):
            if here.get(part) is None:
                here[part] = {}
                tree.origins[walked] = origin
            here = here[part]
        else:
            return here
    return here


def _why_not(here: Any, section: str, name: str) -> str:
    if isinstance(here, list):
        return f"{section} has {len(here)} entries, numbered from 0, and no {name}"
    return f"{section} is no section or list, so it has no {name}"
