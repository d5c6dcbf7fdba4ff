"""Metrics of a task that it cannot have are refused when the config is read, with those that it can."""

from typing import Any

import pytest

from orchestrator.config.metrics import chosen_metrics, fitting_metrics, problems_of_metrics
from orchestrator.config.task import TaskSection
from orchestrator.config.training import EvaluateSection
from tests.fakes.small_runs import VIT, picture_config, small_config


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (["f1", "perplexity"], "evaluate.metrics.1: does not fit image_classification: take accuracy, precision, reca"),
        (["r2"], "evaluate.metrics.0: does not fit image_classification"),
        (["acuracy"], "there is no metric 'acuracy'; did you mean 'accuracy'?; image_classification has accuracy, "),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_with_those_that_do(metrics: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=r"evaluate\.metrics") as caught:
        picture_config(evaluate={"metrics": metrics})
    assert said in str(caught.value)


def test_a_language_model_has_perplexity_alone() -> None:
    with pytest.raises(ValueError, match="does not fit causal_lm: take perplexity"):
        small_config(evaluate={"metrics": ["accuracy"]})
    assert small_config(evaluate={"metrics": ["perplexity"]}).evaluate.metrics == ["perplexity"]


def test_a_matrix_of_many_classes_is_left_to_the_command() -> None:
    model: dict[str, Any] = VIT | {"num_labels": 101}
    with pytest.raises(ValueError, match="101 rows"):
        picture_config(model, evaluate={"metrics": ["confusion_matrix"]})
    picture_config(VIT | {"num_labels": 100}, evaluate={"metrics": ["confusion_matrix"]})


def test_best_by_must_be_one_number() -> None:
    with pytest.raises(ValueError, match=r"evaluate.best_by: is a list"):
        picture_config(evaluate={"metrics": ["f1"], "average": "none", "best_by": "f1"})
    picture_config(evaluate={"metrics": ["f1"], "average": "macro", "best_by": "f1"})


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("causal_lm", ("perplexity",)),
        ("tabular_regression", ("mse", "mae", "r2")),
        ("tabular_classification", ("accuracy", "f1", "roc_auc")),
    ],
)
def test_auto_is_what_fits(task: str, expected: tuple[str, ...]) -> None:
    assert chosen_metrics(EvaluateSection(), fitting_metrics(task)) == expected


def test_best_by_must_be_told() -> None:
    with pytest.raises(ValueError, match=r"a validation of causal_lm tells loss, perplexity: take one"):
        small_config(evaluate={"best_by": "f1"})


@pytest.mark.parametrize("evaluate", [{}, {"metrics": ["f1", "r2"], "best_by": "r2"}, {"best_by": "mae"}])
def test_a_task_of_ones_own_may_wish_for_any(evaluate: dict[str, Any]) -> None:
    task = TaskSection(name="package.module:Task")
    assert list(problems_of_metrics(task, EvaluateSection(**evaluate), classes=None)) == []
