"""Rules as users write them, named in tests by their dotted names."""

from collections.abc import Mapping
from typing import Any

from orchestrator.prepare.clean.sample import Unfit

NOT_A_RULE = 3


def shout(text: str, mark: str = "!") -> str:
    return text.upper() + mark


def at_most_words(text: str, meta: Mapping[str, Any], most: int = 3) -> Unfit | None:
    return Unfit(f"{len(text.split())} words of {meta.get('by')}") if len(text.split()) > most else None


def is_long(text: str) -> bool:
    return len(text) > 3


def fail(text: str) -> None:
    raise ZeroDivisionError(text)


def count(text: str) -> int:
    return len(text)


def first_byte(members: Mapping[str, bytes], wanted: int) -> bool:
    return members["image"][0] == wanted


def nothing(other: int = 0) -> None:
    return None
