"""Weights that are stored in other pieces, or under older names, than the model keeps them in."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from orchestrator.core.errors import DataError
from orchestrator.train.models.initial import initial_source
from orchestrator.train.models.transformers import read_model_config
from tests.fakes.small_models import LM, MIXTRAL, model_config
from tests.fakes.small_runs import VOCAB

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
TEXTS = {"name": "text_classification", "classes": 3, "seq_len": 12}
EXPERTS = "model.layers.1.mlp.experts.gate_up_proj"


@pytest.fixture
def mixtral(tmp_path):
    """The model, and the folder where transformers has saved it: each expert's matrices one by one."""
    model = AutoModelForCausalLM.from_config(read_model_config(model_config({"transformers": MIXTRAL}, LM), VOCAB))
    model.save_pretrained(tmp_path)
    return model, tmp_path


def begin(folder, task):
    return initial_source(model_config({"pretrained": str(folder)}, task), VOCAB)


def test_experts_that_are_stored_one_by_one_are_read_as_one(mixtral):
    model, folder = mixtral
    assert EXPERTS not in load_file(folder / "model.safetensors")
    values, source = model.get_parameter(EXPERTS).detach().flatten(), begin(folder, LM)
    assert torch.equal(source.read(EXPERTS, "fp32", 0, values.numel()), values)
    assert torch.equal(source.read(EXPERTS, "fp32", 100, 777), values[100:877])


def test_an_expert_that_is_not_there_is_named(mixtral):
    _, folder = mixtral
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError, match=f"1 of 21 tensors (.|\n)*{EXPERTS}"):
        begin(folder, LM)


def test_older_names_are_known(tmp_path):
    config = model_config({"transformers": BERT}, TEXTS)
    model = AutoModelForSequenceClassification.from_config(read_model_config(config, VOCAB))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    older = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): values for name, values in tensors.items()}
    assert older.keys() != tensors.keys()
    save_file(older, tmp_path / "model.safetensors")
    name = "bert.embeddings.LayerNorm.weight"
    assert torch.equal(begin(tmp_path, TEXTS).read(name, "fp32", 0, 16), model.get_parameter(name))
