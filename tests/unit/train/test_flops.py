"""Operations of models worked out by hand, and peaks of devices."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.train.flops import count_flops, flops_of_one, peak_flops
from orchestrator.train.models.build import describe_model
from orchestrator.train.tasks.table import make_task
from tests.fakes.small_runs import LLAMA, VIT, VOCAB, picture_config, small_config

TOKENS = {"tokens": np.zeros((2, 17), np.int64), "weights": np.ones((2, 16), np.float32)}
PICTURES = {
    "image": np.zeros((2, 16, 16, 3), np.uint8),
    "label": np.zeros(2, np.int64),
    "weights": np.ones(2, np.float32),
}


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
    ],
)
def test_the_longest_name_that_fits_tells_the_peak(name, precision, tflops):
    assert peak_flops(name, precision) == tflops * 1e12


def test_a_peak_that_nobody_has_written_down_is_none():
    assert peak_flops("NVIDIA Imaginary 9", "bf16") is None
    assert peak_flops("Tesla V100-SXM2-16GB", "bf16") is None, "it has no arithmetic for it"


def test_language_models_go_by_the_formula():
    config = small_config()
    task = make_task(config, None)
    assert flops_of_one(config, VOCAB, task, TOKENS) == describe_model(config, VOCAB).flops_per_token(16)


def test_a_vision_transformer_is_counted_by_its_products():
    config = picture_config(VIT)
    hidden, inner, tokens, layers, classes, patch = 16, 32, 5, 2, 3, 8 * 8 * 3
    patches = 2 * (tokens - 1) * patch * hidden
    forward = patches + layers * 2 * tokens * (4 * hidden * hidden + 2 * hidden * inner)
    forward += layers * 2 * 2 * tokens * tokens * hidden  # attention
    forward += 2 * hidden * classes
    counted = flops_of_one(config, None, make_task(config, None), PICTURES)
    assert counted == 3 * forward - patches, "nobody asks for the gradient of the picture"


def test_activations_computed_again_do_not_count():
    once, again = (picture_config(VIT, train={"checkpoint_activations": on}) for on in (False, True))
    task = make_task(once, None)
    assert count_flops(once, None, task, PICTURES) == count_flops(again, None, task, PICTURES)


def test_an_embedding_does_not_count_and_what_does_not_learn_counts_four():
    plain = describe_model(small_config(LLAMA), VOCAB)
    tied = describe_model(small_config(LLAMA | {"tie_word_embeddings": True}), VOCAB)
    assert tied.flops_per_token(16) == plain.flops_per_token(16), "the head multiplies, the look-up does not"
    frozen = replace(plain, tensors=tuple(replace(tensor, kind="frozen") for tensor in plain.tensors))
    attention = 12 * 2 * 32 * 16
    assert frozen.flops_per_token(16) - attention == (plain.flops_per_token(16) - attention) * 4 / 6
