from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import ConfigError, TrainingFailed
from orchestrator.train.models.build import describe_model
from orchestrator.train.models.transformers import APART, read_model_config
from orchestrator.train.tasks.table import TASKS
from tests.fakes.small_runs import VOCAB as TRAINED_VOCAB
from tests.fakes.small_runs import picture_config, small_config

CPU = torch.device("cpu")
NO_MANIFEST: Any = None  # of it these tasks want nothing
VOCAB = 11
LM = TASKS["causal_lm"](small_config(), NO_MANIFEST)


def make_fields(samples, length, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, (samples, length + 1))
    return {"tokens": tokens, "weights": rng.integers(0, 2, (samples, length)).astype(np.float32)}


def table_model(input_ids):
    """Logits that depend on the token before alone."""
    logits = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(4))
    return SimpleNamespace(logits=logits[input_ids].to(torch.bfloat16))


# ---- causal_lm ----


def test_each_token_is_predicted_from_the_one_before():
    fields = {"tokens": np.array([[1, 2, 3]]), "weights": np.ones((1, 2), np.float32)}
    inputs = LM.collate(fields, CPU)
    assert inputs["input_ids"].tolist() == [[1, 2]]
    assert inputs["targets"].tolist() == [[2, 3]]


def test_loss_is_the_weighted_sum_in_float32():
    fields = make_fields(3, 5)
    inputs = LM.collate(fields, CPU)
    logits = table_model(inputs["input_ids"]).logits.float()
    picked = torch.log_softmax(logits, -1).gather(-1, inputs["targets"].unsqueeze(-1)).squeeze(-1)
    loss = LM.step(table_model, inputs).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-(picked * inputs["weights"]).sum().item(), rel=1e-5)


@given(cut=st.integers(1, 5))
def test_sums_of_slices_add_up_to_the_whole(cut):
    fields = make_fields(6, 7)
    whole = LM.step(table_model, LM.collate(fields, CPU)).loss.item()
    parts = [{name: array[part] for name, array in fields.items()} for part in (slice(0, cut), slice(cut, None))]
    assert sum(LM.step(table_model, LM.collate(part, CPU)).loss.item() for part in parts) == pytest.approx(
        whole, rel=1e-5
    )


# ---- causal_lm with documents_apart ----

TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
DOCUMENTS = (5, 1, 7, 3)  # tokens of each in one row, its last target left out of them


def apart_config(model_type):
    from transformers import AutoConfig

    config_class = type(AutoConfig.for_model(model_type))
    known = {*config_class.__dataclass_fields__, *config_class.attribute_map}
    model = {"model_type": model_type} | {key: value for key, value in TINY.items() if key in known}
    return small_config(model, task={"documents_apart": True})


def run_model(config, attention):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model_config = read_model_config(config, TRAINED_VOCAB)
    model = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32, attn_implementation=attention)
    return model.eval()


@pytest.mark.parametrize("attention", [None, "eager"], ids=["auto", "eager"])
@pytest.mark.parametrize("model_type", APART)
@torch.no_grad()
def test_documents_of_a_row_do_not_see_each_other(model_type, attention):
    """The losses of a packed row are those of its documents run one by one; and they would not be without the key."""
    config = apart_config(model_type)
    model = run_model(config, attention)
    rng, length = np.random.default_rng(2), sum(DOCUMENTS)
    tokens = rng.integers(2, TRAINED_VOCAB, (2, length + 1))
    positions = np.concatenate([np.arange(count, dtype=np.int32) for count in DOCUMENTS])
    fields = {
        "tokens": tokens,
        "weights": np.ones((2, length), np.float32),
        "positions": np.broadcast_to(positions, (2, length)),
    }
    task = TASKS["causal_lm"](config, NO_MANIFEST)
    packed = task.step(model, task.collate(fields, CPU)).loss.item()
    begins = np.cumsum([0, *DOCUMENTS])
    alone = 0.0
    for begin, end in pairwise(begins.tolist()):
        part = {"tokens": tokens[:, begin : end + 1], "weights": fields["weights"][:, begin:end]}
        alone += LM.step(model, LM.collate(part, CPU)).loss.item()
    assert packed == pytest.approx(alone, rel=1e-5)
    mixed = LM.step(model, LM.collate(fields, CPU)).loss.item()
    assert abs(mixed - alone) > 1e-4 * alone


def test_a_model_that_would_let_documents_mix_is_refused_by_name():
    with pytest.raises(ConfigError, match="opt models that they keep documents apart") as caught:
        describe_model(apart_config("opt"), TRAINED_VOCAB)
    assert "task.documents_apart=false" in str(caught.value)


# ---- image_classification ----


def make_pictures(labels, size=4):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8)
    return {"image": images, "label": np.array(labels), "weights": np.ones(len(labels), np.float32)}


def brightest_channel(pixel_values):
    """Says which of three colours a picture has most of."""
    return SimpleNamespace(logits=pixel_values.mean((2, 3)))


def test_pictures_become_channels_first_from_zero_to_one():
    fields = make_pictures([0, 1])
    fields["image"][0, 1, 2] = (0, 255, 51)
    pixels = TASKS["image_classification"](picture_config(), NO_MANIFEST).collate(fields, CPU)["pixel_values"]
    assert pixels.shape == (2, 3, 4, 4)
    assert pixels[0, :, 1, 2].tolist() == pytest.approx([0.0, 1.0, 0.2])
    assert (
        TASKS["image_classification"](picture_config(train={"precision": "bf16"}), NO_MANIFEST)
        .collate(fields, CPU)["pixel_values"]
        .dtype
        == torch.bfloat16
    )


def test_loss_of_pictures_is_a_weighted_sum():
    task, fields = TASKS["image_classification"](picture_config(), NO_MANIFEST), make_pictures([0, 1, 2, 2])
    for row, channel in enumerate([0, 1, 2, 0]):  # the last one looks like another class
        fields["image"][row] = np.eye(3, dtype=np.uint8)[channel] * 255
    measured = task.step(brightest_channel, task.collate(fields, CPU))
    right, wrong = np.log(np.e + 2) - 1, np.log(np.e + 2)
    assert (measured.outputs.argmax(-1) == measured.targets).tolist() == [True, True, True, False]
    assert measured.loss.item() == pytest.approx(3 * right + wrong, rel=1e-5)
    fields["weights"][3] = 0
    assert task.step(brightest_channel, task.collate(fields, CPU)).loss.item() == pytest.approx(3 * right, rel=1e-5)


@pytest.mark.parametrize(("labels", "said"), [([0, 3], "set it to 4 or more"), ([-1, 0], "count labels from 0")])
def test_a_label_without_a_class_is_named(labels, said):
    with pytest.raises(TrainingFailed, match=said) as caught:
        TASKS["image_classification"](picture_config(), NO_MANIFEST).collate(make_pictures(labels), CPU)
    assert "num_labels" in str(caught.value)
