"""Losses against values worked out by hand and against torch's own; weighted sums do not depend on slicing."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from orchestrator.config.task import LossSection
from orchestrator.train.tasks.losses import find_class_weights, make_class_loss, make_number_loss
from orchestrator.train.tasks.table import make_task
from tests.fakes.tables import table_config

CPU = torch.device("cpu")
COUNTS: Any = SimpleNamespace(class_counts=lambda classes: [30, 10][:classes])


def config_of(tmp_path, **loss):
    return table_config(tmp_path, task={"loss": loss})


def number_loss(outputs, targets, **section):
    return make_number_loss(LossSection.model_validate(section))(torch.tensor(outputs), torch.tensor(targets)).tolist()


def test_losses_of_numbers():
    outputs, targets = [1.0, 2.0, -3.0], [1.5, 2.0, 1.0]
    assert number_loss(outputs, targets) == number_loss(outputs, targets, name="mse") == [0.25, 0.0, 16.0]
    assert number_loss(outputs, targets, name="mae") == [0.5, 0.0, 4.0]
    assert number_loss(outputs, targets, name="huber") == [0.125, 0.0, 3.5]
    assert number_loss(outputs, targets, name="huber", delta=2.0) == [0.125, 0.0, 6.0]


def test_cross_entropy(tmp_path):
    loss = make_class_loss(config_of(tmp_path), COUNTS)
    logits, classes = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([1, 0])
    assert loss(logits, classes).tolist() == pytest.approx([math.log(4 / 3), math.log(2)])


def test_label_smoothing_gives_a_share_to_all_classes(tmp_path):
    loss = make_class_loss(config_of(tmp_path, label_smoothing=0.2), COUNTS)
    logits = torch.tensor([[0.0, math.log(3)]])
    assert loss(logits, torch.tensor([1])).item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))


def test_binary_cross_entropy_is_cross_entropy_with_one_output(tmp_path):
    loss = make_class_loss(config_of(tmp_path, name="binary_cross_entropy"), COUNTS)
    logits, classes = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([1, 1, 0])
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    assert torch.allclose(loss(logits, classes), functional.cross_entropy(both, classes, reduction="none"))


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_class_weights_multiply_the_loss_of_their_class(tmp_path, name):
    both, classes = torch.tensor([[0.0, 2.0], [0.0, -1.0]]), torch.tensor([1, 0])
    logits = both if name == "cross_entropy" else both[:, 1:]
    plain = make_class_loss(config_of(tmp_path, name=name), COUNTS)(logits, classes)
    weighed = make_class_loss(config_of(tmp_path, name=name, class_weights=[0.5, 3.0]), COUNTS)(logits, classes)
    assert torch.allclose(weighed, plain * torch.tensor([3.0, 0.5]))


def test_balanced_weights_come_to_one_a_sample(tmp_path):
    weights = find_class_weights(config_of(tmp_path, class_weights="balanced"), COUNTS)
    assert weights.tolist() == pytest.approx([40 / 60, 40 / 20])
    assert float(weights @ torch.tensor([30.0, 10.0])) == pytest.approx(40)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    loss=st.sampled_from(
        [
            {"label_smoothing": 0.1, "class_weights": [0.5, 2.0]},
            {"name": "binary_cross_entropy", "class_weights": [0.5, 2.0]},
            {"name": "mse"},
            {"name": "mae"},
            {"name": "huber", "delta": 0.5},
        ]
    ),
)
def test_the_sum_over_any_slicing_is_that_of_the_whole(tmp_path_factory, seed, cuts, loss):
    numbers = loss.get("name") in ("mse", "mae", "huber")
    task = {"loss": loss} | ({"name": "tabular_regression", "classes": None} if numbers else {})
    made = make_task(table_config(tmp_path_factory.getbasetemp(), task=task), COUNTS)
    rng = np.random.default_rng(seed)
    outputs = 1 if numbers or loss.get("name") == "binary_cross_entropy" else 2
    matrix = torch.from_numpy(rng.normal(size=(3, outputs)).astype(np.float32))
    fields = {
        "features": rng.normal(size=(12, 3)).astype(np.float32),
        "target": rng.normal(size=12).astype(np.float32) if numbers else rng.integers(0, 2, 12),
        "weights": rng.integers(0, 2, 12).astype(np.float32),
    }

    def add_up(begin, end):
        part = {name: column[begin:end] for name, column in fields.items()}
        return made.step(lambda features: features @ matrix, made.collate(part, CPU)).loss.item()

    edges = [0, *sorted(cuts), 12]
    parts = sum(add_up(begin, end) for begin, end in pairwise(edges) if end > begin)
    assert parts == pytest.approx(add_up(0, 12), rel=1e-5, abs=1e-5)
