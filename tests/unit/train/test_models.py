import json

import pytest
import torch

from orchestrator.core.errors import ConfigError
from orchestrator.train.models.build import build_model, describe_model
from orchestrator.train.models.description import ModelDescription
from orchestrator.train.models.tensors import own_tensors
from tests.fakes.small_runs import GPT2, LLAMA, RESNET, VIT, VOCAB, picture_config, small_config


def test_description_counts_what_the_built_model_has():
    config = small_config(GPT2)
    description = describe_model(config, VOCAB)
    model = build_model(config, VOCAB)
    assert description.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert [(t.name, t.shape) for t in description.tensors] == [(n, tuple(t.shape)) for n, t in own_tensors(model)]
    assert description.tied == {"lm_head.weight": "transformer.wte.weight"}
    assert (description.layers, description.hidden_size, description.vocab_size) == (2, 32, VOCAB)


def test_description_survives_json():
    description = describe_model(small_config(), VOCAB)
    assert ModelDescription.from_json(json.loads(json.dumps(description.to_json()))) == description


def test_largest_block_is_a_layer_or_the_embedding():
    description = describe_model(small_config(LLAMA | {"vocab_size": 5000}), VOCAB)
    assert description.largest_block == 5000 * 32
    layer = sum(t.numel for t in describe_model(small_config(), VOCAB).tensors if t.name.startswith("model.layers.1."))
    assert describe_model(small_config(LLAMA | {"vocab_size": 310}), VOCAB).largest_block == max(layer, 310 * 32)


def test_flops_count_matrices_and_attention_but_no_look_up():
    description = describe_model(small_config(), VOCAB)
    matrices = sum(t.numel for t in description.tensors if len(t.shape) == 2 and "embed_tokens" not in t.name)
    assert description.flops_per_token(16) == 6 * matrices + 12 * 2 * 32 * 16


def test_vocabulary_follows_the_tokenizer_unless_larger():
    assert describe_model(small_config(), VOCAB).vocab_size == VOCAB
    assert describe_model(small_config(LLAMA | {"vocab_size": 512}), VOCAB).vocab_size == 512


def test_model_uses_sdpa_and_no_cache():
    with torch.device("meta"):
        model = build_model(small_config(), VOCAB)
    assert model.config._attn_implementation == "sdpa"
    assert model.config.use_cache is False


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"model_type": "lama"}, ["'lama'", "did you mean llama"]),
        (LLAMA | {"hiden_size": 3, "foo_bar": 1}, ["hiden_size", "did you mean hidden_size", "foo_bar"]),
        (LLAMA | {"dtype": "bfloat16"}, ["dtype", "train.precision"]),
        (LLAMA | {"num_attention_heads": 5}, ["hidden size (32)", "attention heads (5)"]),
        (LLAMA | {"num_key_value_heads": 3}, ["num_key_value_heads 3"]),
        (LLAMA | {"hidden_size": "x"}, ["hidden_size", "'x'"]),
        (LLAMA | {"hidden_size": -32}, ["hidden_size=-32"]),
        (GPT2 | {"n_head": 5}, ["n_head=5"]),
        (LLAMA | {"vocab_size": 5}, ["5 vocabulary entries", "300", "vocab_size"]),
        (LLAMA | {"max_position_embeddings": 5}, ["5 positions", "task.seq_len is 16"]),
    ],
)
def test_model_that_cannot_be_built_is_named_with_its_key(model, said):
    with pytest.raises(ConfigError) as caught:
        describe_model(small_config(model), VOCAB)
    assert all(words in str(caught.value) for words in ["model.transformers", *said])


@pytest.mark.parametrize("model", [RESNET, VIT])
def test_image_classifiers_are_built_with_the_classes_of_the_config(model):
    config = picture_config(model)
    description, built = describe_model(config, None), build_model(config, None)
    assert description.num_parameters == sum(parameter.numel() for parameter in built.parameters())
    assert built.config.num_labels == 3
    assert description.vocab_size == 0
    assert description.largest_block > 0


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (LLAMA, ["'llama' is no image classifier"]),
        ({"model_type": "resnt", "num_labels": 3}, ["'resnt'", "did you mean resnet"]),
        (RESNET | {"depth": [1]}, ["depth", "did you mean depths"]),
        ({key: value for key, value in RESNET.items() if key != "num_labels"}, ["needs num_labels"]),
        (RESNET | {"num_labels": "3"}, ["num_labels"]),
    ],
)
def test_image_classifier_that_cannot_be_built_is_named_with_its_key(model, said):
    with pytest.raises(ConfigError) as caught:
        describe_model(picture_config(model), None)
    assert all(words in str(caught.value) for words in ["model.transformers", *said])


def test_labels_are_no_key_of_a_language_model():
    with pytest.raises(ConfigError, match="num_labels is no key of a llama config"):
        describe_model(small_config(LLAMA | {"num_labels": 3}), VOCAB)


def test_pretrained_must_be_a_local_directory(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        describe_model(small_config(model=None).model_copy(update={"model": _pretrained(tmp_path)}), VOCAB)


def _pretrained(path):
    return small_config().model.model_copy(update={"transformers": None, "pretrained": str(path)})
