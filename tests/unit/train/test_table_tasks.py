"""Tasks of tables and texts, and those that a user brings."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError, TrainingFailed
from orchestrator.train.models.build import build_model
from orchestrator.train.tasks.own import check_own
from orchestrator.train.tasks.table import make_task
from tests.fakes.small_runs import LLAMA
from tests.fakes.tables import table_config

CPU = torch.device("cpu")
NOTHING: Any = SimpleNamespace()
ROWS = {
    "features": np.array([[1.0, 2.0, 1.0, 0.0], [3.0, 4.0, 0.0, 1.0]], np.float32),
    "target": np.array([1, 0]),
    "weights": np.array([1.0, 0.0], np.float32),
}


def first_columns(features):
    return features[:, :2]


def test_a_row_is_told_by_its_features(tmp_path):
    task = make_task(table_config(tmp_path), NOTHING)
    measured = task.step(first_columns, task.collate(ROWS, CPU))
    assert measured.loss.item() == pytest.approx(np.log(1 + np.exp(-1)))
    assert (measured.outputs.tolist(), measured.targets.tolist()) == (ROWS["features"][:, :2].tolist(), [1, 0])


def test_one_output_is_shown_as_two_classes(tmp_path):
    task = make_task(table_config(tmp_path, task={"loss": {"name": "binary_cross_entropy"}}), NOTHING)
    measured = task.step(lambda features: features[:, 1:2], task.collate(ROWS, CPU))
    assert measured.outputs.tolist() == [[0.0, 2.0], [0.0, 4.0]]


def test_precision_is_that_of_training_and_loss_float32(tmp_path):
    task = make_task(table_config(tmp_path, train={"precision": "bf16"}), NOTHING)
    inputs = task.collate(ROWS, CPU)
    assert inputs["features"].dtype == torch.bfloat16
    assert task.step(first_columns, inputs).loss.dtype == torch.float32


def regression(tmp_path, **task):
    return table_config(tmp_path, task={"name": "tabular_regression", "classes": None} | task)


def test_a_number_is_learned_from_one_output(tmp_path):
    task = make_task(regression(tmp_path), NOTHING)
    fields = ROWS | {"target": np.array([5.0, 1.0], np.float32)}
    measured = task.step(lambda features: features[:, :1], task.collate(fields, CPU))
    assert measured.loss.item() == 16.0
    assert (measured.outputs.tolist(), measured.targets.tolist()) == ([1.0, 3.0], [5.0, 1.0])
    with pytest.raises(ConfigError, match="one number each is learned"):
        task.step(first_columns, task.collate(fields, CPU))


# ---- texts ----


def text_config(model):
    return RunConfig.model_validate(
        {
            "name": "texts",
            "data": {"train": [{"path": "a"}], "fields": {"text": {"members": ["txt"]}, "label": {"members": ["cls"]}}},
            "prepare": {"tokens": {"train_bpe": 300}},
            "task": {"name": "text_classification", "classes": 3, "seq_len": 12},
            "model": model,
            "train": {"steps": 1, "global_batch": 4, "precision": "fp32"},
        }
    )


def make_texts(lengths, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 300, (len(lengths), 12)).astype(np.int32)
    return {
        "tokens": tokens,
        "length": np.array(lengths, np.int32),
        "label": rng.integers(0, 3, len(lengths)),
        "weights": np.ones(len(lengths), np.float32),
    }


@pytest.fixture(scope="module", params=["rnn", "llama"])
def reader(request):
    """A task with a model of random weights."""
    config = text_config({"rnn": {"embedding": 8, "hidden": 8}} if request.param == "rnn" else {"transformers": LLAMA})
    model = build_model(config, 300)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return make_task(config, NOTHING), model.eval()


@settings(max_examples=10)
@given(cut=st.integers(1, 5))
def test_how_far_a_text_is_filled_up_changes_nothing(reader, cut):
    """Texts alone, or together with longer ones, and whatever stands behind them."""
    task, model = reader
    fields = make_texts([2, 5, 1, 12, 3, 7])

    def measure(begin, end, behind=0):
        part = {name: column[begin:end].copy() for name, column in fields.items()}
        for row, length in zip(part["tokens"], part["length"], strict=True):
            row[length:] = behind
        return task.step(model, task.collate(part, CPU)).loss.item()

    with torch.no_grad():
        whole = measure(0, 6)
        assert measure(0, cut, 5) + measure(cut, 6, 9) == pytest.approx(whole, rel=1e-5)


def test_a_rank_without_samples_takes_part_all_the_same(reader):
    task, model = reader
    fields = {name: np.zeros((1, *column.shape[1:]), column.dtype) for name, column in make_texts([1]).items()}
    assert task.step(model, task.collate(fields, CPU)).loss.item() == 0.0


def test_labels_must_be_whole_numbers_of_the_classes(reader):
    task, _ = reader
    fields = make_texts([2, 3])
    with pytest.raises(TrainingFailed, match="there are labels from 0 to 3, the model tells 3 classes apart"):
        task.collate(fields | {"label": np.array([0, 3])}, CPU)
    with pytest.raises(TrainingFailed, match="labels are float64, not whole numbers"):
        task.collate(fields | {"label": np.array([0.0, 1.0])}, CPU)
    with pytest.raises(TrainingFailed, match="labels are object"):
        task.collate(fields | {"label": np.array(["a", "b"], object)}, CPU)


# ---- a user's own ----

OWN = "tests.fakes.own_task:"


def test_a_task_of_the_users_own_is_made_and_stepped(tmp_path):
    config = regression(tmp_path, name=f"{OWN}Distance")
    task = make_task(config, NOTHING)
    fields = ROWS | {"target": np.array([5.0, 1.0], np.float32)}
    assert task.step(lambda features: features[:, :1], task.collate(fields, CPU)).loss.item() == 4.0
    assert list(check_own(config)) == []


def test_a_step_of_the_users_own_takes_the_place_of_the_tasks(tmp_path):
    config = regression(tmp_path, step=f"{OWN}twice_the_error")
    task = make_task(config, NOTHING)
    fields = ROWS | {"target": np.array([5.0, 1.0], np.float32)}
    measured = task.step(lambda features: features[:, :1], task.collate(fields, CPU))
    assert (measured.loss.item(), measured.outputs) == (8.0, None)
    assert list(check_own(config)) == []


def test_what_a_step_may_not_return_is_named(tmp_path):
    task = make_task(regression(tmp_path, step=f"{OWN}mean_by_name"), NOTHING)
    fields = ROWS | {"target": np.array([5.0, 1.0], np.float32)}
    with pytest.raises(TrainingFailed, match="own_task:mean_by_name returned a dict"):
        task.step(first_columns, task.collate(fields, CPU))


@pytest.mark.parametrize(
    ("task", "key", "said"),
    [
        ({"name": f"{OWN}NoStep"}, "task.name", "it lacks step"),
        ({"name": f"{OWN}Nowhere"}, "task.name", "cannot be imported"),
        ({"name": "nowhere.at.all:Task"}, "task.name", "cannot be imported"),
        ({"step": f"{OWN}nowhere"}, "task.step", "cannot be imported"),
        ({"step": "nowhere"}, "task.step", "must be a function's dotted name"),
    ],
)
def test_what_cannot_be_used_is_found_before_anything_starts(tmp_path, task, key, said):
    (problem,) = check_own(regression(tmp_path, **task))
    assert problem.key == key
    assert said in problem.message
