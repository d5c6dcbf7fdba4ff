"""What came of an evaluation, under the names of its metrics: numbers, and lists where a metric speaks of each class.

Comes after classes.py and numbers.py; metrics.jsonl, W&B and `longhaul evaluate` show it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.core.news import Value
from orchestrator.train.evaluation.classes import ClassScores, PerClass
from orchestrator.train.evaluation.numbers import NumberScores

MOST_NAMED = 10

Scores = ClassScores | NumberScores


def values_of(scores: Scores, chosen: Sequence[str], average: str) -> dict[str, Value]:
    """The chosen metrics. What is not defined on these samples is left out."""
    found = values_of_numbers(scores) if isinstance(scores, NumberScores) else values_of_classes(scores, average)
    return {name: found[name] for name in chosen if found.get(name) is not None}


def values_of_numbers(scores: NumberScores) -> dict[str, Value]:
    values: dict[str, Value] = {"mse": scores.mse, "mae": scores.mae}
    return values if scores.r2 is None else values | {"r2": scores.r2}


def values_of_classes(scores: ClassScores, average: str) -> dict[str, Value]:
    values: dict[str, Value] = {"accuracy": scores.accuracy}
    for name, each in (("precision", scores.precision), ("recall", scores.recall), ("f1", scores.f1)):
        values[name] = each if average == "none" else mean(each) if average == "macro" else scores.accuracy
    if any(area is not None for area in scores.roc_auc):
        values["roc_auc"] = mean(scores.roc_auc)
    if scores.matrix:
        values["confusion_matrix"] = scores.matrix
    return values


def mean(each: PerClass) -> float:
    """Over the classes that there are samples of."""
    present = [score for score in each if score is not None]
    return sum(present) / len(present)


def notes_of(scores: Scores, chosen: Sequence[str], split: str, names: Sequence[str]) -> Iterator[str]:
    """What people should know of these numbers; `names` of classes where they have any."""
    if isinstance(scores, NumberScores):
        if "r2" in chosen and scores.r2 is None:
            yield f"{split}: all targets are equal, so there is no r2"
        return
    if absent := scores.absent:
        named = ", ".join(name_class(number, names) for number in absent[:MOST_NAMED])
        more = f" and {len(absent) - MOST_NAMED:,} more" if len(absent) > MOST_NAMED else ""
        yield f"{split} has no sample of class {named}{more}: means are over the other classes"
    if "roc_auc" in chosen and all(area is None for area in scores.roc_auc):
        yield f"{split} has samples of one class only, so there is no roc_auc"


def name_class(number: int, names: Sequence[str]) -> str:
    return f"{number} ({names[number]})" if number < len(names) else str(number)


def describe(values: Mapping[str, Value], scores: Scores | None, names: Sequence[str]) -> dict[str, Any]:
    """All there is to say, for programs: `metrics` as in metrics.jsonl, and for each class what is said of it."""
    told: dict[str, Any] = {"metrics": {name: value for name, value in values.items() if name != "confusion_matrix"}}
    if not isinstance(scores, ClassScores):
        return told
    rows = zip(scores.counts, scores.precision, scores.recall, scores.f1, scores.roc_auc, strict=True)
    columns = ("samples", "precision", "recall", "f1", "roc_auc")
    classes = [
        {
            "class": number,
            **({"name": names[number]} if number < len(names) else {}),
            **dict(zip(columns, row, strict=True)),
        }
        for number, row in enumerate(rows)
    ]
    return told | {"classes": classes, "absent": scores.absent, "confusion_matrix": scores.matrix}
