"""The steps of prepare.clean over the samples of a shard: who stays, why others do not, and what the texts become.

A Cleaner travels between processes as the config's words; functions are found in the process that uses them. Comes
before anything is compared: what is compared is the text as it was."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

from orchestrator.config.preparing import CleanStep
from orchestrator.core.errors import DataError, LonghaulError
from orchestrator.prepare.clean.rules import may_alter, rule_for, what_it_is_given
from orchestrator.prepare.clean.sample import Removal, Sample, Unfit
from orchestrator.prepare.clean.statistics import Column, Statistics, read_number
from orchestrator.prepare.clean.tables import list_repairs, name_columns
from orchestrator.prepare.clean.text import Text


class CleaningFailed(DataError):
    """A rule raised: a fault of the code. `row` tells which of the samples judged together it was given."""

    row = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return *super().__reduce__(), {"row": self.row}


@dataclass(frozen=True)
class Cleaner:
    """What is dropped and what is altered."""

    steps: tuple[CleanStep, ...]
    statistics: Statistics | None = None

    @classmethod
    def of(cls, steps: Sequence[CleanStep]) -> "Cleaner":
        return cls(tuple(steps))

    def __reduce__(self) -> tuple[Any, ...]:
        return Cleaner, (self.steps, self.statistics)

    def judge(self, samples: Sequence[Sample]) -> list[Removal | None]:
        """For each sample the first rule that drops it, or None. Later steps see the text as altered so far."""
        return [self._judge(row, sample) for row, sample in enumerate(samples)]

    def alter(self, samples: Sequence[Sample]) -> list[str]:
        """The text of each sample that judge keeps, as it is tokenised."""
        altering = [step for step in self._ready if step.alters]
        return [self._alter(row, sample, altering) for row, sample in enumerate(samples)]

    @cached_property
    def alters(self) -> bool:
        """Whether alter may change anything."""
        return any(step.alters for step in self._ready)

    @cached_property
    def needs_meta(self) -> bool:
        """Whether any step looks at the json member."""
        return any("meta" in step.given for step in self._ready)

    @cached_property
    def needs_statistics(self) -> bool:
        return bool(name_columns(self.steps))

    def collect(self, samples: Sequence[Sample], also: Iterable[str] = ()) -> Statistics:
        """Of these samples, all of which count, by the columns of the rules and others: a part, to be merged with
        others in any order."""
        wanted = dict.fromkeys(also, False) | name_columns(self.steps)
        return Statistics({name: Column.of(_numbers(samples, name), counted) for name, counted in wanted.items()})

    def with_statistics(self, statistics: Statistics) -> "Cleaner":
        return replace(self, statistics=statistics)

    def list_repairs(self) -> list[dict[str, Any]]:
        """What the trainer is to do to values: see tables.py."""
        return list_repairs(self.steps, self._known)

    @cached_property
    def _ready(self) -> "list[_Step]":
        return [_Step.of(step, f"prepare.clean.{i}") for i, step in enumerate(self.steps)]

    @cached_property
    def _known(self) -> Statistics:
        if self.statistics is None and self.needs_statistics:
            raise DataError("rules for tables need statistics, and none are given", where="prepare.clean")
        return self.statistics or Statistics()

    def _judge(self, row: int, sample: Sample) -> Removal | None:
        text, before = Text(sample.text), ""
        for step in self._ready:
            said = step.call(row, text, sample, self._known)
            if isinstance(said, Unfit):
                return Removal(step.name, said.reason)
            if isinstance(said, str) and said != text:
                before, text = step.name, Text(said)
        return Removal(before, "nothing is left of its text") if before and not text else None

    def _alter(self, row: int, sample: Sample, altering: "Sequence[_Step]") -> str:
        text = Text(sample.text)
        for step in altering:
            said = step.call(row, text, sample, self._known)
            if isinstance(said, str) and said != text:
                text = Text(said)
        return str(text)


class _Step(NamedTuple):
    """One rule with its arguments, ready to be called."""

    key: str
    name: str
    function: Callable[..., Any]
    given: frozenset[str]
    alters: bool

    @classmethod
    def of(cls, step: CleanStep, key: str) -> "_Step":
        function = rule_for(step.name, f"{key}.name")
        return cls(key, step.name, partial(function, **step.args), what_it_is_given(function), may_alter(function))

    def call(self, row: int, text: Text, sample: Sample, statistics: Statistics) -> str | Unfit | None:
        everything = {
            "text": text,
            "meta": {} if sample.meta is None else sample.meta,
            "members": sample.members,
            "statistics": statistics,
        }
        try:
            said = self.function(**{name: everything[name] for name in self.given})
        except (MemoryError, LonghaulError):
            raise
        except Exception as error:
            raise self._failed(row, f"{self.name} failed: {type(error).__name__}: {error}") from error
        if said is False:
            return Unfit("it says no")
        if said is None or said is True or isinstance(said, Unfit) or (isinstance(said, str) and "text" in self.given):
            return None if said is True else said
        raise self._failed(row, f"{self.name} returned a {type(said).__name__}")

    def _failed(self, row: int, what: str) -> CleaningFailed:
        error = CleaningFailed(
            what, where=self.key, remedy="return None, Unfit(reason) or the altered text (docs/prepare.md)"
        )
        error.row = row
        return error


def _numbers(samples: Sequence[Sample], name: str) -> Iterator[float]:
    """Of a column; what is missing or no number does not count."""
    for sample in samples:
        number = read_number((sample.meta or {}).get(name))
        if number is not None:
            yield number
