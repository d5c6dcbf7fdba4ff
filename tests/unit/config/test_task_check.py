"""What is refused of a task before anything starts, with the key that must change."""

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.config.check import check_config
from orchestrator.config.run import RunConfig

TABLE = {"columns": ["age", {"name": "colour", "values": ["red", "green"]}], "target": "kind", "labels": ["cat", "dog"]}
TABULAR: dict[str, Any] = {
    "name": "x",
    "data": {"train": [{"path": "a"}], "table": TABLE},
    "task": {"name": "tabular_classification", "classes": 2},
    "model": {"linear": {}},
    "train": {"steps": 10, "global_batch": 4},
}
TEXTS = TABULAR | {
    "data": {"train": [{"path": "a"}], "fields": {"text": {"members": ["txt"]}, "label": {"members": ["cls"]}}},
    "task": {"name": "text_classification", "classes": 2},
    "prepare": {"tokens": {"train_bpe": 300}},
    "model": {"rnn": {}},
}
TOKENS = TABULAR | {
    "data": {"train": [{"path": "a"}]},
    "task": {"name": "causal_lm"},
    "prepare": {"tokens": {"train_bpe": 300}},
    "model": {"transformers": {"model_type": "llama"}},
}


def problems_of(base: dict[str, Any], **changes: Any) -> list[str]:
    """`data__table__target="x"` sets data.table.target."""
    values = copy.deepcopy(base)
    for key, value in changes.items():
        *sections, name = key.split("__")
        here = values
        for section in sections:
            here = here.setdefault(section, {})
        here[name] = value
    found = check_config(values)
    return [] if isinstance(found, RunConfig) else [str(problem) for problem in found]


@pytest.mark.parametrize("base", [TABULAR, TEXTS, TOKENS], ids=["tabular", "texts", "tokens"])
def test_the_configs_that_these_tests_change_are_sound(base):
    assert problems_of(base) == []


@pytest.mark.parametrize(
    ("base", "changes", "key", "said"),
    [
        (TABULAR, {"data__table": None}, "data.table", "tabular_classification needs it"),
        (TABULAR, {"data__fields": {"a": {"members": ["b"]}}}, "data.fields", "leave it out"),
        (TABULAR, {"data__table__target": "age"}, "data.table.target", "one of data.table.columns"),
        (TABULAR, {"data__table__columns": ["age", "age"]}, "data.table.columns", "has 'age' twice"),
        (TABULAR, {"data__table__labels": ["cat", "cat"]}, "data.table.labels", "has 'cat' twice"),
        (TABULAR, {"data__table__labels": ["a", "b", "c"]}, "data.table.labels", "has 3 labels for task.classes 2"),
        (TABULAR, {"task__classes": None, "data__table__labels": None}, "task.classes", "needs it"),
        (TABULAR, {"task__name": "tabular_regression"}, "data.table.labels", "learns a number"),
        (TABULAR, {"prepare__tokens": {"train_bpe": 300}}, "prepare.tokens", "reads no tokens"),
        (TABULAR, {"task__loss": {"name": "mse"}}, "task.loss.name", "cross_entropy or binary_cross_entropy"),
        (TABULAR, {"task__loss": {"class_weights": [1.0]}}, "task.loss.class_weights", "has 1 weights for 2 classes"),
        (TABULAR, {"task__loss": {"delta": 2.0}}, "task.loss.delta", "is for huber"),
        (
            TABULAR,
            {"task__loss": {"name": "binary_cross_entropy", "label_smoothing": 0.1}},
            "task.loss.label_smoothing",
            "is for cross_entropy",
        ),
        (
            TABULAR,
            {"task__loss": {"name": "binary_cross_entropy"}, "task__classes": 3, "data__table__labels": None},
            "task.loss.name",
            "for two classes",
        ),
        (
            TABULAR,
            {"task__loss": {"class_weights": "balanced"}, "prepare__mode": "ahead"},
            "task.loss.class_weights",
            "too late for prepare.mode ahead",
        ),
        (TABULAR, {"task__step": "a:b", "task__loss": {"label_smoothing": 0.1}}, "task.loss", "computes its own loss"),
        (TEXTS, {"prepare__tokens": None}, "prepare.tokens", "text_classification needs it"),
        (TEXTS, {"prepare__tokens__text_member": "md"}, "prepare.tokens.text_member", "reads .txt"),
        (TEXTS, {"data__table": TABLE, "data__fields": None}, "data.table", "reads data.fields"),
        (TEXTS, {"task__loss": {"name": "mae"}}, "task.loss.name", "has cross_entropy"),
        (TOKENS, {"task__loss": {"label_smoothing": 0.1}}, "task.loss.label_smoothing", "leave it out"),
        (TOKENS, {"task__loss": {"class_weights": [1.0]}}, "task.loss.class_weights", "has no classes"),
        (TOKENS, {"data__table": TABLE}, "data.table", "reads tokens, not table"),
    ],
)
def test_what_does_not_go_together_is_named_with_its_key(base, changes, key, said):
    found = problems_of(base, **changes)
    assert any(one.startswith(f"{key}:") and said in one for one in found), found


def test_a_loss_of_numbers_is_for_numbers():
    numbers = {"task__name": "tabular_regression", "task__classes": None, "data__table__labels": None}
    for name in ("mse", "mae", "huber"):
        assert problems_of(TABULAR, **numbers, task__loss={"name": name}) == []
    (found,) = problems_of(TABULAR, **numbers, task__loss={"name": "cross_entropy"})
    assert found.startswith("task.loss.name: tabular_regression has mse or mae or huber")


def test_classes_stated_twice_must_agree():
    pictures = TABULAR | {
        "data": {"train": [{"path": "a"}], "fields": {"image": {"members": ["png"]}, "label": {"members": ["cls"]}}},
        "task": {"name": "image_classification", "classes": 3},
        "model": {"transformers": {"model_type": "resnet", "num_labels": 4}},
    }
    assert problems_of(pictures) == ["task.classes: is 3, and model.transformers.num_labels is 4"]
    assert problems_of(pictures, task__classes=4) == []


def test_an_unknown_task_is_named_with_the_nearest_one():
    with pytest.raises(ValidationError, match="did you mean 'causal_lm'"):
        RunConfig.model_validate(TOKENS | {"task": {"name": "casual_lm"}})
