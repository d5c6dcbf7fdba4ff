"""Statistics of columns, for the rules of tables.py: mean, deviation, quantiles.

Exact: sums are fractions and values are counted, so that parts may be put together in any order and come to the same
bits. Memory is a count for each different value, and only for columns whose quantiles are asked."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from orchestrator.core.errors import DataError

FORMAT = 1


def read_number(value: Any) -> float | None:
    """A column's value as a number; None if it is none. True and false are 1 and 0."""
    if isinstance(value, int | float) and not math.isnan(value):
        return float(value)
    return None


@dataclass(frozen=True, slots=True)
class Column:
    """Sums over a column's finite numbers, and how often each stands there."""

    count: int = 0
    total: Fraction = Fraction(0)
    squares: Fraction = Fraction(0)
    values: Mapping[float, int] = field(default_factory=dict)

    @classmethod
    def of(cls, numbers: Iterable[float], counted: bool) -> "Column":
        values = Counter(number for number in numbers if math.isfinite(number))
        exact = [(Fraction(number), times) for number, times in values.items()]
        return cls(
            values.total(),
            sum((number * times for number, times in exact), Fraction(0)),
            sum((number * number * times for number, times in exact), Fraction(0)),
            dict(sorted(values.items())) if counted else {},
        )

    def merge(self, other: "Column") -> "Column":
        values = Counter(self.values)
        values.update(other.values)
        return Column(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            dict(sorted(values.items())),
        )

    def mean(self) -> float:
        return float(self.total / self.count)

    def deviation(self) -> float:
        """Of all these numbers, not of a larger population they may stand for."""
        return math.sqrt(float(self.squares / self.count - (self.total / self.count) ** 2))

    def quantile(self, share: Fraction) -> float:
        """Linear between neighbours, as numpy has it."""
        whole, part = divmod(share * (self.count - 1), 1)
        low = self._at(int(whole))
        return float(low + (self._at(math.ceil(whole + part)) - low) * part)

    def _at(self, place: int) -> Fraction:
        """The number at this place of all in order."""
        for number, times in self.values.items():
            if place < times:
                return Fraction(number)
            place -= times
        raise IndexError(place)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of columns by name."""

    columns: Mapping[str, Column] = field(default_factory=dict)

    def merge(self, other: "Statistics") -> "Statistics":
        """Of both parts together; the order does not matter."""
        names = sorted({*self.columns, *other.columns})
        none = Column()
        return Statistics({name: self.columns.get(name, none).merge(other.columns.get(name, none)) for name in names})

    def column(self, name: str) -> Column:
        found = self.columns.get(name, Column())
        if not found.count:
            raise DataError(
                f"column '{name}' holds no number in the samples that its statistics come from",
                where="prepare.clean",
                remedy="correct the name, or choose a rule without statistics",
            )
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "columns": {
                name: {
                    "count": one.count,
                    "total": str(one.total),
                    "squares": str(one.squares),
                    "values": [[number, times] for number, times in one.values.items()],
                }
                for name, one in self.columns.items()
            },
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Statistics":
        if found.get("format") != FORMAT:
            raise DataError(f"statistics of format {found.get('format')}; {FORMAT} is read", remedy="prepare again")
        return cls(
            {
                name: Column(one["count"], Fraction(one["total"]), Fraction(one["squares"]), dict(one["values"]))
                for name, one in found["columns"].items()
            }
        )
