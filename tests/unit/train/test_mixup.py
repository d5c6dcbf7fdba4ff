"""Pictures and labels mixed in pairs: shares, what becomes of holes, and losses equal to those worked out by hand."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from orchestrator.core.errors import TrainingFailed
from orchestrator.data.decoding.draws import Draws, sample_keys
from orchestrator.train.augment.mixup import draw_shares, mix, sum_losses
from orchestrator.train.augment.replay import Augmentation
from orchestrator.train.tasks.table import TASKS
from tests.fakes.small_runs import picture_config

CPU = torch.device("cpu")
KEYS = sample_keys(5, 0, 1, np.arange(9))
CONFIG = picture_config(
    data={
        "mixup": {"alpha": 0.7},
        "augment": [
            {"name": "rotate", "args": {"degrees": [-20, 20]}},
            {"name": "brightness", "args": {"factor": [0.5, 1.5]}},
        ],
    }
)
TASK = TASKS["image_classification"](CONFIG, None)  # type: ignore[arg-type]


def make_fields(number: int = len(KEYS)) -> dict[str, Any]:
    """Samples of a batch and, last, the one beyond it."""
    rng = np.random.default_rng(2)
    return {
        "image": rng.integers(0, 256, (number, 6, 6, 3), dtype=np.uint8),
        "label": rng.integers(0, 3, number),
        "weights": np.ones(number, np.float32),
        "draw_keys": KEYS[:number],
    }


class Model:
    """Three classes by a linear layer; counts how often it is run."""

    def __init__(self) -> None:
        self.calls = 0
        self.weight = torch.randn(108, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def __call__(self, pixel_values: torch.Tensor) -> Any:
        self.calls += 1
        return SimpleNamespace(logits=pixel_values.flatten(1) @ self.weight)


def loss_of(fields: dict[str, Any], model: Model) -> torch.Tensor:
    return sum_losses(TASK, model, Augmentation(CONFIG).change(TASK.collate(fields, CPU), fields))


def test_shares_are_beta_distributed_and_the_samples_own():
    keys = sample_keys(5, 0, 1, np.arange(20_000))
    for alpha in (0.2, 1.0, 4.0):
        shares = draw_shares(keys, alpha)
        assert shares.min() >= 0
        assert shares.max() <= 1
        assert shares.mean() == pytest.approx(0.5, abs=0.01)
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
        assert draw_shares(keys[7:9], alpha).tolist() == shares[7:9].tolist()
    assert draw_shares(keys, 1.0) == pytest.approx(Draws(keys).uniform("mixup.share"))


def test_the_loss_is_that_of_both_labels_by_hand_from_one_forward_pass():
    fields, model = make_fields(), Model()
    found = loss_of(fields, model)
    assert model.calls == 1
    changed = replace_mixup(None).change(TASK.collate(fields, CPU), fields)["pixel_values"]
    expected = 0.0
    for n, share in enumerate(draw_shares(KEYS[:-1], 0.7)):
        logits = model((share * changed[n] + (1 - share) * changed[n + 1])[None].float()).logits
        for label, part in ((fields["label"][n], share), (fields["label"][n + 1], 1 - share)):
            expected += part * functional.cross_entropy(logits, torch.tensor([label])).item()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def replace_mixup(mixup: Any) -> Augmentation:
    return Augmentation(CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"mixup": mixup})}))


def test_a_sample_whose_next_one_does_not_count_stays_as_it_is():
    fields = make_fields(4)
    fields["weights"][2] = 0
    inputs = TASK.collate(fields, CPU)
    mixed = mix(inputs, fields["draw_keys"], 1.0)
    assert torch.equal(mixed["pixel_values"][1], inputs["pixel_values"][1])
    assert mixed["mixup_shares"][1] == 1
    assert not torch.equal(mixed["pixel_values"][0], inputs["pixel_values"][0])
    assert mixed["weights"].tolist() == [1, 1, 0]


@pytest.mark.parametrize("cuts", [[0, 8], [0, 3, 8], [0, 1, 2, 5, 8]])
def test_gradients_add_up_to_those_of_the_whole_batch(cuts):
    """Each slice has the sample after its last one, as slices.py cuts them."""
    fields, whole, sliced = make_fields(), Model(), Model()
    loss_of(fields, whole).backward()
    for begin, end in pairwise(cuts):
        loss_of({name: array[begin : end + 1] for name, array in fields.items()}, sliced).backward()
    assert whole.weight.grad is not None
    assert torch.allclose(sliced.weight.grad, whole.weight.grad, rtol=1e-4, atol=1e-5)


def test_a_task_without_labels_cannot_be_mixed():
    fields = make_fields()
    unlabelled = {name: value for name, value in TASK.collate(fields, CPU).items() if name != "labels"}
    with pytest.raises(TrainingFailed, match=r"^data.mixup: .* and no labels"):
        Augmentation(CONFIG).change(unlabelled, fields)


def test_tasks_that_are_not_mixed_take_their_own_step():
    fields, model = make_fields(), Model()
    inputs = TASK.collate(fields, CPU)
    assert torch.equal(sum_losses(TASK, model, inputs), TASK.step(model, inputs).loss)
