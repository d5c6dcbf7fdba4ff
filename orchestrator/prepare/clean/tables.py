"""Rules for tables: a sample is a row, and the object in its json member holds the columns.

Rows are dropped here. Values that are to be filled in or clipped are only written down (list_repairs): that happens
when samples are fed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from orchestrator.config.preparing import CleanStep
from orchestrator.config.problems import Problem, shown
from orchestrator.data.decoding.table import is_missing
from orchestrator.prepare.clean.sample import Unfit
from orchestrator.prepare.clean.statistics import Column, Statistics, read_number

Columns = Annotated[Sequence[str], Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
_K = {"zscore": 3.0, "iqr": 1.5}  # where a step names none: three deviations; Tukey's fences


def missing(
    meta: Mapping[str, Any],
    columns: Columns,
    rule: Literal["drop", "mean", "median", "constant"] = "drop",
    value: float | str | None = None,  # noqa: ARG001 - of list_repairs
) -> Unfit | None:
    """A value that is not there, null, NaN or an empty text: the row goes, or it is filled in when it is fed."""
    gone = [name for name in columns if is_missing(meta.get(name))] if rule == "drop" else []
    return Unfit(f"no value for {', '.join(gone)}") if gone else None


def outliers(
    meta: Mapping[str, Any],
    statistics: Statistics,
    columns: Columns,
    rule: Literal["zscore", "iqr", "range"],
    k: Positive | None = None,
    low: float | None = None,
    high: float | None = None,
    then: Literal["drop", "clip"] = "drop",
) -> Unfit | None:
    """A number outside its bounds: the row goes, or it is clipped when it is fed. Missing values are no outliers."""
    if then == "clip":
        return None
    for name in columns:
        if is_missing(meta.get(name)):
            continue
        number = read_number(meta[name])
        if number is None:
            return Unfit(f"{name} is {shown(meta[name])}, which is no number")
        bounds = _find_bounds(statistics, name, rule, k, low, high)
        if not bounds.low <= number <= bounds.high:
            return Unfit(f"{name} is {number:.6g}, outside {bounds.low:.6g} to {bounds.high:.6g}")
    return None


class Bounds(NamedTuple):
    low: float
    high: float


def list_repairs(steps: Sequence[CleanStep], statistics: Statistics) -> list[dict[str, Any]]:
    """What is to be done to values when samples are fed, in order: {column, fill} or {column, low, high}."""
    return [repair for step in steps for repair in _list_repairs(step, statistics)]


def name_columns(steps: Sequence[CleanStep]) -> dict[str, bool]:
    """Columns whose statistics these steps need, and whether their quantiles are among them."""
    needed: dict[str, bool] = {}
    for step in steps:
        rule = step.args.get("rule")
        if step.name in ("missing", "outliers") and rule in ("mean", "median", "zscore", "iqr"):
            for name in step.args["columns"]:
                needed[name] = needed.get(name, False) or rule in ("median", "iqr")
    return needed


def check_table_step(step: CleanStep, key: str) -> Iterator[Problem]:
    """What the arguments' types do not say."""
    rule = step.args.get("rule")
    if step.name == "missing" and rule == "constant" and step.args.get("value") is None:
        yield Problem(f"{key}.args", "rule: constant needs the argument 'value'")
    if step.name == "outliers" and rule == "range" and step.args.get("low") is step.args.get("high") is None:
        yield Problem(f"{key}.args", "rule: range needs 'low', 'high' or both")


def _list_repairs(step: CleanStep, statistics: Statistics) -> Iterator[dict[str, Any]]:
    args = dict(step.args)
    if step.name == "missing" and args.get("rule", "drop") != "drop":
        for name in args["columns"]:
            yield {"column": name, "fill": _find_fill(statistics, name, args["rule"], args.get("value"))}
    if step.name == "outliers" and args.get("then") == "clip":
        for name in args["columns"]:
            bounds = _find_bounds(statistics, name, args["rule"], args.get("k"), args.get("low"), args.get("high"))
            yield {"column": name} | {end: value for end, value in bounds._asdict().items() if math.isfinite(value)}


def _find_fill(statistics: Statistics, name: str, rule: str, value: float | str | None) -> float | str | None:
    if rule == "constant":
        return value
    column = statistics.column(name)
    return column.mean() if rule == "mean" else column.quantile(Fraction(1, 2))


def _find_bounds(
    statistics: Statistics, name: str, rule: str, k: float | None, low: float | None, high: float | None
) -> Bounds:
    if rule == "range":
        return Bounds(-math.inf if low is None else low, math.inf if high is None else high)
    return _spread(statistics.column(name), rule, k or _K[rule])


def _spread(column: Column, rule: str, k: float) -> Bounds:
    if rule == "zscore":
        mean, deviation = column.mean(), column.deviation()
        return Bounds(mean - k * deviation, mean + k * deviation)
    first, third = column.quantile(Fraction(1, 4)), column.quantile(Fraction(3, 4))
    return Bounds(first - k * (third - first), third + k * (third - first))
