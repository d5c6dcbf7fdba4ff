"""The optimizer that a config asks for."""

import pytest
import torch
from torch import nn

from orchestrator.config.training import OptimSection
from orchestrator.train.optim.optimizer import make_optimizer, state_names


def module_with_frozen_part() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    module[2].requires_grad_(False)
    return module


def test_only_trainable_matrices_decay() -> None:
    module = module_with_frozen_part()
    optimizer = make_optimizer(module, OptimSection(weight_decay=0.1), "cpu")
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    first, norm, _ = module
    assert decay == {first.weight: 0.1, first.bias: 0.0, norm.weight: 0.0, norm.bias: 0.0}


def test_a_module_without_vectors_has_one_group() -> None:
    assert len(make_optimizer(nn.Linear(2, 2, bias=False), OptimSection(), "cpu").param_groups) == 1


@pytest.mark.parametrize(
    "section", [OptimSection(), OptimSection(name="sgd"), OptimSection(name="sgd", momentum=0.9)], ids=str
)
def test_state_names_are_what_torch_keeps(section: OptimSection) -> None:
    parameter = nn.Parameter(torch.ones(3, 2))
    module = nn.Module()
    module.weight = parameter
    optimizer = make_optimizer(module, section, "cpu")
    parameter.sum().backward()
    optimizer.step()
    kept = optimizer.state[parameter]
    whole = {key for key, value in kept.items() if torch.is_tensor(value) and value.shape == parameter.shape}
    assert whole == set(state_names(optimizer))
