from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.data import TaskSection
from orchestrator.train.tasks import TASKS, CausalLM

CPU = torch.device("cpu")
VOCAB = 11


def make_fields(samples, length, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, (samples, length + 1))
    return {"tokens": tokens, "weights": rng.integers(0, 2, (samples, length)).astype(np.float32)}


def table_model(input_ids, use_cache):
    """Logits that depend on the token before alone."""
    logits = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(4))
    return SimpleNamespace(logits=logits[input_ids].to(torch.bfloat16))


def test_every_task_of_the_config_is_in_the_table():
    assert TASKS.keys() == {TaskSection().name}


def test_each_token_is_predicted_from_the_one_before():
    fields = {"tokens": np.array([[1, 2, 3]]), "weights": np.ones((1, 2), np.float32)}
    inputs = CausalLM().collate(fields, CPU)
    assert inputs["input_ids"].tolist() == [[1, 2]]
    assert inputs["targets"].tolist() == [[2, 3]]


def test_loss_is_the_weighted_sum_in_float32():
    fields = make_fields(3, 5)
    inputs = CausalLM().collate(fields, CPU)
    logits = table_model(inputs["input_ids"], use_cache=False).logits.float()
    picked = torch.log_softmax(logits, -1).gather(-1, inputs["targets"].unsqueeze(-1)).squeeze(-1)
    loss = CausalLM().loss(table_model, inputs)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-(picked * inputs["weights"]).sum().item(), rel=1e-5)


@given(cut=st.integers(1, 5))
def test_sums_of_slices_add_up_to_the_whole(cut):
    task, fields = CausalLM(), make_fields(6, 7)
    whole = task.loss(table_model, task.collate(fields, CPU)).item()
    parts = [{name: array[part] for name, array in fields.items()} for part in (slice(0, cut), slice(cut, None))]
    assert sum(task.loss(table_model, task.collate(part, CPU)).item() for part in parts) == pytest.approx(
        whole, rel=1e-5
    )
