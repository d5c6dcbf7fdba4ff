"""What rules are given and what they say. Comes first; every other module here imports it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import Field

Bytes = bytes | memoryview
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Sample:
    """What cleaning looks at: a text, or the members of data.fields by field; and the json member of either."""

    text: str = ""
    meta: Mapping[str, Any] | None = None  # None: there is no json member, or it holds no object
    members: Mapping[str, Bytes] = field(default_factory=dict)


class Unfit(NamedTuple):
    """What a rule returns to drop a sample: the reason, as `12 words, fewer than 50`."""

    reason: str


def above(value: float, most: float | None, what: str) -> Unfit | None:
    """Unfit when there is a bound and the value exceeds it; `what` says what was counted."""
    return None if most is None or value <= most else Unfit(f"{value:.4g} {what}, more than {most:g}")


def below(value: float, least: float | None, what: str) -> Unfit | None:
    return None if least is None or value >= least else Unfit(f"{value:.4g} {what}, fewer than {least:g}")


class Removal(NamedTuple):
    """A sample that does not stay: the rule that dropped it, and why."""

    rule: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.reason}"


def read_meta(data: Bytes | None) -> dict[str, Any] | None:
    """The object in a json member; None where there is none."""
    if data is None:
        return None
    try:
        value = json.loads(str(data, "utf-8"))
    except ValueError:  # no UTF-8, or no JSON
        return None
    return value if isinstance(value, dict) else None
