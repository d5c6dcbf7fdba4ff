"""Which models compute their activations again, and which are refused."""

import pytest
import torch
from torch import nn

from orchestrator.core.errors import ConfigError
from orchestrator.train.compile import check_compilers
from orchestrator.train.models.build import build_model
from orchestrator.train.models.recompute import find_blocks, recompute_activations
from tests.fakes.own_blocks import Block, OwnModel
from tests.fakes.small_runs import RESNET, picture_config


def gradients(model: nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(1)
    model(features=torch.ones(3, 4)).sum().backward()
    return [parameter.grad for parameter in model.parameters()]


def test_a_module_of_ones_own_computes_its_blocks_again_to_the_same_gradients():
    torch.manual_seed(0)
    plain, again = OwnModel(), OwnModel()
    again.load_state_dict(plain.state_dict())
    recompute_activations(again)
    calls = []
    for block in again.blocks:
        block.register_forward_hook(lambda *_: calls.append("block"))
        block.inner.register_forward_hook(lambda *_: calls.append("inner"))
    for one, other in zip(gradients(plain), gradients(again), strict=True):
        assert torch.equal(one, other)
    assert (calls.count("block"), calls.count("inner")) == (2, 4)


def test_blocks_are_the_outermost_modules_in_a_row_and_single_layers_are_none():
    inside = nn.Sequential(Block(4), Block(4))
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(inside, inside[0]), nn.ModuleList([Block(4)]))
    assert list(find_blocks(model)) == [model[1], model[2][0]]


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))])
def test_a_model_without_blocks_is_refused(model):
    with pytest.raises(ConfigError, match=r"train\.checkpoint_activations: .* has no blocks"):
        recompute_activations(model)


def test_batch_norms_are_refused_since_they_would_count_twice():
    config = picture_config(RESNET, train={"checkpoint_activations": True})
    with pytest.raises(ConfigError, match="batch norms such as resnet"), torch.device("meta"):
        build_model(config, None)


def test_a_missing_compiler_is_said_before_anybody_waits(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"train\.compile: torch\.compile needs a compiler \(no-such-compiler\)"):
        check_compilers("cpu")
