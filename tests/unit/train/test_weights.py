import itertools
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from orchestrator.checkpoint.fragments import MASTER
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError, DataError
from orchestrator.train.models.build import build_model
from orchestrator.train.models.initial import InitialWeights, initial_source
from orchestrator.train.models.tensors import own_tensors
from orchestrator.train.models.transformers import read_model_config
from tests.fakes.small_runs import GPT2, LLAMA, VOCAB, small_config


def read_all(source, config):
    with torch.device("meta"):
        named = own_tensors(build_model(config, VOCAB))
    return {name: source.read(name, source.states(name)[0], 0, t.numel()).clone().view(t.shape) for name, t in named}


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_initial_weights_are_the_same_for_any_slicing_and_any_order(model):
    config = small_config(model)
    whole = read_all(InitialWeights(config, VOCAB), config)
    torch.manual_seed(99)  # nothing outside may matter
    other = InitialWeights(config, VOCAB)
    for name in reversed(whole):
        flat = whole[name].flatten()
        cuts = sorted({0, flat.numel() // 3, flat.numel() // 2 + 1, flat.numel()})
        parts = [other.read(name, MASTER, a, b - a).clone() for a, b in itertools.pairwise(cuts)]
        assert torch.equal(torch.cat(parts), flat)


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_initial_weights_follow_the_models_own_initialisation(model):
    config = small_config(model | {"initializer_range": 0.05})
    made = read_all(InitialWeights(config, VOCAB), config)
    theirs = AutoModelForCausalLM.from_config(read_model_config(config, VOCAB))
    for name, parameter in theirs.named_parameters():
        ours = made[name]
        if parameter.ndim == 1:  # norms and biases are constants
            assert torch.equal(ours, parameter.detach()), name
        else:
            assert ours.std().item() == pytest.approx(parameter.std().item(), rel=0.1), name
            assert abs(ours.mean().item()) < 0.01


def test_loss_of_a_fresh_model_is_that_of_guessing():
    config = small_config()
    model = build_model(config, VOCAB)
    made = read_all(InitialWeights(config, VOCAB), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(made[name])
        tokens = torch.randint(0, VOCAB, (8, 16), generator=torch.Generator().manual_seed(1))
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss.item()
    assert loss == pytest.approx(math.log(VOCAB), rel=0.02)


def test_another_seed_gives_other_weights_and_every_tensor_its_own():
    config, other = small_config(), small_config(seed=6)
    a, b = read_all(InitialWeights(config, VOCAB), config), read_all(InitialWeights(other, VOCAB), other)
    name, neighbour = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    assert not torch.equal(a[name], b[name])
    assert not torch.equal(a[name], a[neighbour])


def test_making_weights_leaves_the_random_numbers_of_training_alone():
    source = InitialWeights(small_config(), VOCAB)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    source.read("lm_head.weight", MASTER, 0, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_tied_names_read_as_one_tensor():
    source = InitialWeights(small_config(GPT2), VOCAB)
    first = source.read("transformer.wte.weight", MASTER, 7, 50).clone()
    assert torch.equal(source.read("lm_head.weight", MASTER, 7, 50), first)
    assert source.states("no.such.tensor") == ()


def test_model_without_an_initialisation_of_its_own_is_refused():
    config = small_config({"model_type": "rwkv", "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64})
    with pytest.raises(ConfigError, match=r"no initial value(.|\n)*model\.pretrained"):
        read_all(InitialWeights(config, VOCAB), config)


@pytest.fixture(params=["one file", "shards"])
def saved(tmp_path, request):
    config = small_config(LLAMA | {"tie_word_embeddings": True})
    model = AutoModelForCausalLM.from_config(read_model_config(config, VOCAB))
    model.save_pretrained(tmp_path, max_shard_size="20KB" if request.param == "shards" else "1GB")
    return model, config_from(tmp_path)


def config_from(folder) -> RunConfig:
    value = small_config().model_dump() | {"model": {"pretrained": str(folder)}}
    return RunConfig.model_validate(value)


def test_pretrained_weights_are_read_slice_by_slice(saved):
    model, config = saved
    source = initial_source(config, VOCAB)
    for name, parameter in model.named_parameters():
        flat, count = parameter.detach().flatten(), parameter.numel()
        assert torch.equal(source.read(name, MASTER, 0, count), flat)
        assert torch.equal(source.read(name, MASTER, count // 3, count // 2), flat[count // 3 :][: count // 2])
    assert source.states("lm_head.weight") == (MASTER,)


def test_pretrained_directory_without_all_tensors_is_refused(tmp_path):
    config = small_config()
    model = AutoModelForCausalLM.from_config(read_model_config(config, VOCAB))
    model.model.save_pretrained(tmp_path)  # the base model lacks the head
    with pytest.raises(DataError, match=r"lm_head\.weight"):
        initial_source(config_from(tmp_path), VOCAB)


def test_pretrained_directory_without_safetensors_is_refused(tmp_path):
    read_model_config(small_config(), VOCAB).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="safetensors"):
        initial_source(config_from(tmp_path), VOCAB)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DataError, match="safetensors"):
        initial_source(config_from(tmp_path), VOCAB)
