"""What a sample takes of memory, counted on fake tensors, beside sums by hand and what torch really holds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from launch.planning import describe_cached, know_memory
from orchestrator.config.resolve import Facts, resolve_world
from orchestrator.config.run import RunConfig
from orchestrator.train.activations import count_activations
from orchestrator.train.models.build import build_model
from tests.fakes.small_models import KINDS, TABULAR, model_config
from tests.fakes.small_runs import GPT2, LLAMA, VOCAB, small_config

FACTS = Facts(device="cpu", cpus_per_node=8, remote=False, sample_bytes=0, wandb_key=False)
GIB = 2**30


def test_a_perceptron_takes_what_its_layers_keep() -> None:
    hidden = 1000
    config = model_config({"mlp": {"hidden": [hidden], "activation": "relu"}}, TABULAR, train={"precision": "fp32"})
    counted = count_activations(config, None)
    assert counted is not None
    assert 4 * hidden <= counted <= 4 * (3 * hidden + 100), "the hidden layer, its gradient, and little more"


def test_twice_the_length_takes_twice_the_memory_of_one_layer_after_another() -> None:
    short, long = (count_activations(small_config(LLAMA, task={"seq_len": length}), VOCAB) for length in (32, 64))
    assert short is not None
    assert long == pytest.approx(2 * short, rel=0.1)


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_what_torch_keeps_for_the_backward_of_transformers_is_counted(model: dict[str, object]) -> None:
    config = small_config(model, task={"seq_len": 32})
    counted = count_activations(config, VOCAB)
    assert counted is not None
    assert _kept(config) <= counted <= 2 * _kept(config)


def _kept(config: RunConfig) -> int:
    """Bytes a sample that a real forward keeps for its backward."""
    sizes = []
    for samples in (4, 8):
        torch.manual_seed(0)
        model, storages = build_model(config, VOCAB), {}
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def pack(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        tokens = torch.zeros(samples, config.task.seq_len, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = torch.nn.functional.cross_entropy(model(input_ids=tokens).logits.flatten(0, 1), tokens.flatten())
        assert loss.requires_grad
        sizes.append(sum(size for place, size in storages.items() if place not in own))
    return (sizes[1] - sizes[0]) // 4


def test_activations_that_are_computed_again_take_less() -> None:
    deep = LLAMA | {"num_hidden_layers": 5}
    once, again = (
        count_activations(small_config(deep, task={"seq_len": 64}, train={"checkpoint_activations": on}), VOCAB)
        for on in (False, True)
    )
    assert once is not None
    assert again is not None
    assert again < 0.7 * once


def test_where_shapes_are_not_in_the_config_nothing_is_counted() -> None:
    assert count_activations(model_config(*KINDS["cnn"]), None) is None, "nobody knows how large pictures are"


def test_a_model_larger_than_this_machine_is_counted_within_its_memory(tmp_path: Path) -> None:
    """And a device too small for the usual number of samples at once gets fewer."""
    large = LLAMA | {
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    }
    sections = {"task": {"seq_len": 2048}, "train": {"global_batch": 64, "precision": "bf16", "micro_batch": "auto"}}
    config = small_config(large | {"num_hidden_layers": 2, "max_position_embeddings": 2048}, **sections)
    config = config.model_copy(update={"data": config.data.model_copy(update={"work": str(tmp_path)})})
    facts = replace(FACTS, device="cuda")
    counted = []
    for gib in (8.0, 12.0, 80.0):
        cluster = config.cluster.model_copy(update={"device": "cuda", "device_memory_gb": gib})
        sized = config.model_copy(update={"cluster": cluster})
        known = know_memory(sized, facts, VOCAB, describe_cached(sized, VOCAB))
        counted.append(resolve_world(sized, known, 1).micro_batch)
        assert known.activation_bytes is not None
        assert resolve_world(sized, known, 1).micro_batch * known.activation_bytes < gib * GIB
    assert counted == sorted(set(counted)), "more memory, more at once"
    assert counted[-1] == 8, "16,384 tokens are enough"
