"""What is struck: `kill rank 1 @ 20; cut node 2 @ 60 for 5s; nan @ 100` as a list of faults. possible.py comes next."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.config.problems import nearest
from orchestrator.core.errors import BadInput


class Kind(StrEnum):
    KILL_RANK = "kill rank"
    STOP_RANK = "stop rank"
    KILL_NODE = "kill node"
    CUT_NODE = "cut node"
    ADD_NODE = "add node"
    KILL_CONTROLLER = "kill controller"
    KILL_SCRIBE = "kill scribe"
    NAN = "nan"
    NAN_ONCE = "nan once"
    SPIKE = "spike"


OF_RANKS = {Kind.KILL_RANK, Kind.STOP_RANK}
OF_NODES = {Kind.KILL_NODE, Kind.CUT_NODE, Kind.ADD_NODE}
NUMBERED = {Kind.KILL_RANK, Kind.STOP_RANK, Kind.KILL_NODE, Kind.CUT_NODE}
OF_NUMBERS = {Kind.NAN, Kind.NAN_ONCE, Kind.SPIKE}  # not struck from outside: the ranks do it to themselves
UNSEEN = {Kind.KILL_CONTROLLER, Kind.KILL_SCRIBE, Kind.NAN, Kind.NAN_ONCE}  # training goes on in the same world

_FORM = re.compile(
    r"(?P<what>[a-z ]+?)(?:\s+(?P<number>\d+))?\s*@\s*(?P<step>\d+)(?:\s+for\s+(?P<lasts_s>\d+(?:\.\d+)?)\s*s)?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Struck when `step` updates are done, or so many seconds after the one before (`gap_s`), whichever is given."""

    kind: Kind
    number: int | None = None  # of the rank or node
    step: int | None = None
    gap_s: float | None = None
    lasts_s: float | None = None  # how long a node is cut off

    @property
    def what(self) -> str:
        return self.kind.value if self.number is None else f"{self.kind} {self.number}"

    def __str__(self) -> str:
        when = f" @ {self.step}" if self.step is not None else ""
        return f"{self.what}{when}{f' for {self.lasts_s:g}s' if self.lasts_s is not None else ''}"


def parse_faults(text: str) -> list[Fault]:
    """In the order in which they are struck."""
    parts = [part.strip() for part in text.split(";")]
    faults = [_parse(part) for part in parts if part]
    if not faults:
        raise BadInput("names no fault", where="--faults", remedy='for example --faults "kill rank 1 @ 20"')
    return sorted(faults, key=lambda fault: fault.step or 0)


def parse_seconds(text: str, where: str) -> float:
    """`30s`, or `30`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*s?", text.strip())
    if found is None or not float(found[1]):
        raise BadInput("must be seconds, above 0", where=f"{where} {text}", remedy=f"for example {where} 30s")
    return float(found[1])


def say_faults(faults: Sequence[Fault]) -> str:
    return "; ".join(map(str, faults))


def _parse(part: str) -> Fault:
    found = _FORM.fullmatch(" ".join(part.lower().split()))
    if found is None:
        raise _wrong(part, "must be `WHAT @ STEP`, or `cut node N @ STEP for SECONDSs`")
    what = found["what"].strip()
    if what not in list(Kind):
        raise _wrong(part, f"{what!r} is no fault{nearest(what, list(Kind))}")
    kind, number, lasts = Kind(what), found["number"], found["lasts_s"]
    if (number is not None) != (kind in NUMBERED):
        raise _wrong(part, f"`{kind}` needs a number" if number is None else f"`{kind}` takes no number")
    if (lasts is not None) != (kind is Kind.CUT_NODE):
        wrong = "needs `for SECONDSs` at the end" if lasts is None else "takes no `for`"
        raise _wrong(part, f"`{kind}` {wrong}")
    return Fault(
        kind=kind,
        number=int(number) if number is not None else None,
        step=int(found["step"]),
        lasts_s=float(lasts) if lasts is not None else None,
    )


def _wrong(part: str, message: str) -> BadInput:
    known = ", ".join(f"{kind} N" if kind in NUMBERED else kind for kind in Kind)
    return BadInput(message, where=f"--faults: {part}", remedy=f"known are {known}")
