"""Which metrics fit which task, and what `evaluate.metrics: auto` takes. For checks of a config, and for train/."""

from collections.abc import Iterator

from orchestrator.config.problems import Problem, nearest
from orchestrator.config.task import TASK_NAMES, TaskSection
from orchestrator.config.training import METRICS, EvaluateSection

OF_CLASSES = ("accuracy", "precision", "recall", "f1", "roc_auc", "confusion_matrix")
OF_NUMBERS = ("mse", "mae", "r2")
OF_TOKENS = ("perplexity",)
AVERAGED = ("precision", "recall", "f1")  # over classes, as evaluate.average says
MOST_CLASSES = 100  # above, a validation's curves and its matrix are too much to keep at every turn

_AUTO = {OF_CLASSES: ("accuracy", "f1", "roc_auc"), OF_NUMBERS: OF_NUMBERS, OF_TOKENS: OF_TOKENS}


def fitting_metrics(task_name: str) -> tuple[str, ...]:
    """All that can be said of a task's outputs. What a user's task gives out shows when it runs."""
    if task_name == "causal_lm":
        return OF_TOKENS
    if task_name == "tabular_regression":
        return OF_NUMBERS
    return OF_CLASSES if task_name in TASK_NAMES else METRICS


def chosen_metrics(evaluate: EvaluateSection, fitting: tuple[str, ...]) -> tuple[str, ...]:
    """What is to be told of outputs for which these metrics are fitting."""
    if evaluate.metrics == "auto":
        return _AUTO[fitting]
    return tuple(name for name in fitting if name in evaluate.metrics)


def problems_of_metrics(task: TaskSection, evaluate: EvaluateSection, classes: int | None) -> Iterator[Problem]:
    """Names that are none, and metrics that do not fit the task, or so many classes; None: how many is not stated."""
    wished = () if evaluate.metrics == "auto" else tuple(evaluate.metrics)
    fitting = fitting_metrics(task.name)
    for i, name in enumerate(wished):
        key = f"evaluate.metrics.{i}"
        if name not in METRICS:
            yield Problem(key, f"there is no metric '{name}'{nearest(name, METRICS)}; {task.name} has {_said(fitting)}")
        elif name not in fitting:
            yield Problem(key, f"does not fit {task.name}: take {_said(fitting)}", name)
        elif name == "confusion_matrix" and (classes or 0) > MOST_CLASSES:
            yield Problem(
                key,
                f"would have {classes:,} rows in every validation's line, at most {MOST_CLASSES} are kept; "
                "longhaul evaluate writes it of any number of classes",
                name,
            )
    told = ("loss", *(METRICS if fitting == METRICS else chosen_metrics(evaluate, fitting)))
    if evaluate.best_by not in told:
        yield Problem(
            "evaluate.best_by",
            f"a validation of {task.name} tells {_said(told)}: take one, or name it in evaluate.metrics",
            evaluate.best_by,
        )
    if evaluate.average == "none" and evaluate.best_by in AVERAGED:
        yield Problem(
            "evaluate.best_by", "is a list, one number a class: take evaluate.average macro or micro", evaluate.best_by
        )


def _said(names: tuple[str, ...]) -> str:
    return ", ".join(names)
