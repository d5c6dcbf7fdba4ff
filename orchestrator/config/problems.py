"""What is wrong with a config, and where each value came from. Collected by load.py and check.py, shown all at once."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import ConfigError

SHOWN_CHARS = 60
_PLAIN_TEXT = re.compile(r"[A-Za-z_/][^\s]*")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: a file with its line, the command line, or nowhere (a default)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one key. `value` is what was seen, ready to be read; empty when there is none to show."""

    key: str
    message: str
    value: str = ""

    def __str__(self) -> str:
        head = f"{self.key}: {self.message}" if self.key else self.message
        return f"{head} ({self.value})" if self.value else head


class WrongValues(ValueError):
    """Raised by validators that look at several keys at once, so that each problem keeps its own key."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(map(str, self.problems)))


class UnreadableYaml(Exception):
    """The text has no values at all: missing, not YAML, empty. Carries the whole line to show."""


def shown(value: Any) -> str:
    """A value on one line, cut if long; text is quoted where it could be taken for something else."""
    plain = isinstance(value, str) and bool(_PLAIN_TEXT.fullmatch(value)) and value not in ("true", "false", "null")
    return cut(value if plain else json.dumps(value, default=str, ensure_ascii=False))


def cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..."


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word that looks most alike, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def locate(problems: Iterable[Problem], origins: Mapping[str, Origin]) -> list[str]:
    """Each problem behind the place of its key, in the order of the places; a missing key stands at its section."""
    sources = list(dict.fromkeys(origin.source for origin in origins.values()))
    placed = []
    for problem in problems:
        origin = _origin_of(problem.key, origins)
        rank = sources.index(origin.source) if origin else -1
        placed.append((rank, origin.line if origin else 0, f"{origin}: {problem}" if origin else str(problem)))
    return [text for _, _, text in sorted(placed, key=lambda place: place[:2])]


def _origin_of(key: str, origins: Mapping[str, Origin]) -> Origin | None:
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return origins.get(key)


def config_error(lines: Iterable[str]) -> ConfigError:
    return ConfigError("\n".join(lines))
