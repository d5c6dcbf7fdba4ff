"""The optimizer that a config asks for, its groups, and what it keeps."""

import pytest
import torch
from torch import nn

from orchestrator.config.training import OptimSection
from orchestrator.core.errors import ConfigError
from orchestrator.train.models.build import describe_model
from orchestrator.train.optim.groups import check_patterns, depths_of
from orchestrator.train.optim.optimizer import make_optimizer, state_names
from tests.fakes.small_runs import GPT2, VOCAB, small_config

SECTIONS = [
    OptimSection(),
    OptimSection(name="adam"),
    OptimSection(name="sgd"),
    OptimSection(name="sgd", momentum=0.9, nesterov=True),
    OptimSection(name="adagrad"),
    OptimSection(name="lion"),
]


def module_with_frozen_part() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    module[2].requires_grad_(False)
    return module


def group_of(module: nn.Module, **optim: object) -> dict[str, tuple[float, float, float]]:
    """Decay, L1 and share of the learning rate of each trainable parameter."""
    optimizer = make_optimizer(module, OptimSection(weight_decay=0.1, **optim), "cpu")
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {
        names[parameter]: (group["weight_decay"], group["l1"], group["lr_share"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


# ---- groups ----


def test_only_trainable_matrices_decay_by_l2_and_l1() -> None:
    groups = group_of(module_with_frozen_part(), l1=0.01)
    assert groups.pop("0.weight") == (0.1, 0.01, 1.0)
    assert groups == dict.fromkeys(["0.bias", "1.weight", "1.bias"], (0.0, 0.0, 1.0))


def test_matrices_can_be_spared_by_name() -> None:
    groups = group_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), no_decay=["1.*"], l1=0.01)
    assert groups["0.weight"] == (0.1, 0.01, 1.0)
    assert groups["1.weight"] == (0.0, 0.0, 1.0)


def test_parameters_of_one_trait_share_a_group() -> None:
    assert len(make_optimizer(nn.Linear(2, 2, bias=False), OptimSection(), "cpu").param_groups) == 1
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    optimizer = make_optimizer(module, OptimSection(rates={"0.*": 2.0, "3.*": 2.0}), "cpu")
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2, 2, 2]
    assert [group["lr_share"] for group in optimizer.param_groups] == [2.0, 1.0, 2.0, 1.0]


def test_rates_of_all_patterns_that_fit_are_multiplied() -> None:
    groups = group_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), rates={"*.weight": 0.5, "1.*": 4.0})
    assert {name: share for name, (_, _, share) in groups.items()} == {
        "0.weight": 0.5,
        "0.bias": 1.0,
        "1.weight": 2.0,
        "1.bias": 4.0,
    }


def test_depth_rises_from_the_embedding_over_the_layers_to_the_head() -> None:
    names = [f"{stack}.{part}" for stack in ("h.0", "h.1") for part in ("attn.weight", "mlp.weight")]
    depths = depths_of(["wte.weight", *names, "ln_f.weight", "lm_head.weight"])
    assert list(depths.values()) == [0, 1, 1, 2, 2, 3, 3]


def test_depth_goes_on_over_a_second_stack() -> None:
    names = ["shared.w", "enc.0.w", "enc.1.w", "enc.norm.w", "dec.0.w", "dec.1.w", "dec.norm.w"]
    assert list(depths_of(names).values()) == [0, 1, 2, 3, 3, 4, 5]


def test_layers_below_learn_slower_and_the_deepest_at_the_full_rate() -> None:
    module = nn.ModuleDict(
        {
            "embed": nn.Embedding(3, 2),
            "layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]),
            "head": nn.Linear(2, 2),
        }
    )
    shares = {
        name: share for name, (_, _, share) in group_of(module, layer_decay=0.5, rates={"head.bias": 2.0}).items()
    }
    assert shares == {
        "embed.weight": 0.125,
        **dict.fromkeys(["layers.0.weight", "layers.0.bias"], 0.25),
        **dict.fromkeys(["layers.1.weight", "layers.1.bias"], 0.5),
        "head.weight": 1.0,
        "head.bias": 2.0,
    }


def test_freezing_a_layer_leaves_the_rates_of_the_others() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    before = group_of(module, layer_decay=0.5)
    module[2].requires_grad_(False)
    after = group_of(module, layer_decay=0.5)
    assert after == {name: kept for name, kept in before.items() if not name.startswith("2.")}


@pytest.mark.parametrize("key", ["no_decay", "rates"])
def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest_name(key: str) -> None:
    pattern = "transformer.wt.weight"
    section = OptimSection.model_validate({key: [pattern] if key == "no_decay" else {pattern: 2.0}})
    with pytest.raises(ConfigError, match=rf"optim\.{key}: .*did you mean 'transformer\.wte\.weight'"):
        check_patterns(section, describe_model(small_config(GPT2), VOCAB))


def test_a_tied_parameter_can_be_named_by_either_name() -> None:
    check_patterns(OptimSection(no_decay=["lm_head.weight"]), describe_model(small_config(GPT2), VOCAB))


def test_layer_decay_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.layer_decay"):
        make_optimizer(nn.Linear(2, 2), OptimSection(layer_decay=0.9), "cpu")


# ---- optimizers ----


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_state_names_are_what_the_optimizer_keeps(section: OptimSection) -> None:
    parameter = nn.Parameter(torch.ones(3, 2))
    module = nn.Module()
    module.weight = parameter
    optimizer = make_optimizer(module, section, "cpu")
    parameter.sum().backward()
    optimizer.step()
    kept = optimizer.state[parameter]
    whole = {key for key, value in kept.items() if torch.is_tensor(value) and value.shape == parameter.shape}
    assert whole == set(state_names(optimizer))


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_a_step_on_stretches_is_that_stretch_of_a_step_on_the_whole(section: OptimSection) -> None:
    section = section.model_copy(update={"weight_decay": 0.1, "l1": 0.01})
    torch.manual_seed(0)
    values, grads = torch.randn(2, 10), torch.randn(3, 2, 10)
    whole = stepped(values, list(grads), section)
    parts = [stepped(values[:, cut], [grad[:, cut] for grad in grads], section) for cut in (slice(0, 3), slice(3, 10))]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert not torch.equal(whole, values)


def stepped(values: torch.Tensor, grads: list[torch.Tensor], section: OptimSection) -> torch.Tensor:
    module = nn.Module()
    module.weight = nn.Parameter(values.clone())
    optimizer = make_optimizer(module, section, "cpu")
    for grad in grads:
        module.weight.grad = grad.clone()
        optimizer.step()
    return module.weight.detach()


def test_adagrad_is_that_of_torch() -> None:
    torch.manual_seed(0)
    values, grads = torch.randn(4, 4), list(torch.randn(5, 4, 4))
    section = OptimSection(name="adagrad", lr=0.1, weight_decay=0.1)
    theirs = nn.Parameter(values.clone())
    reference = torch.optim.Adagrad([theirs], lr=0.1, weight_decay=0.1, eps=1e-8)
    for grad in grads:
        theirs.grad = grad.clone()
        reference.step()
    assert torch.equal(stepped(values, grads, section), theirs.detach())


def test_lion_by_hand() -> None:
    """lr 0.1, decay 0.5, betas 0.5 and 0.75, gradients 1 and -0.4: directions 1, then sign(0.5*0.25 - 0.5*0.4) = -1."""
    section = OptimSection(name="lion", lr=0.1, weight_decay=0.5, betas=(0.5, 0.75))
    found = stepped(torch.full((1, 1), 2.0), [torch.full((1, 1), 1.0), torch.full((1, 1), -0.4)], section)
    assert found.item() == pytest.approx((2.0 * 0.95 - 0.1) * 0.95 + 0.1)


def test_l1_pulls_every_weight_that_decays_towards_zero_once_an_update() -> None:
    module = nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[-2.0, 0.0]]))
    bias = module.bias.detach().clone()
    optimizer = make_optimizer(module, OptimSection(name="sgd", lr=1.0, l1=0.25), "cpu")
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert module.weight.tolist() == [[-1.75, 0.0]]
    assert torch.equal(module.bias, bias)
