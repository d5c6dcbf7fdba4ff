"""Every `auto` becomes a value with a reason; batches are cut for any world."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.check import replace_values
from orchestrator.config.resolve import (
    TOKENS_AT_ONCE,
    Facts,
    keep_decided,
    resolve_run,
    resolve_world,
    undecide,
)
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError

FACTS = Facts(device="cpu", cpus_per_node=8, unit_shards=64, wandb_key=False)
CONFIG = RunConfig.model_validate(
    {
        "name": "base",
        "data": {"train": [{"path": "a"}]},
        "prepare": {"tokens": {"train_bpe": 512}},
        "task": {"seq_len": 1024},
        "model": {"transformers": {"model_type": "llama"}},
        "train": {"steps": 10, "global_batch": 24},
        "cluster": {"ranks_per_node": 2},
    }
)


def facts(**changes) -> Facts:
    return Facts(**{name: changes.get(name, getattr(FACTS, name)) for name in Facts.__dataclass_fields__})


def test_what_is_auto_is_decided_with_reasons_and_nothing_else_changes():
    config, decisions = resolve_run(CONFIG, FACTS)
    assert {d.key: d.value for d in decisions} == {
        "data.lanes": 8,
        "cluster.device": "cpu",
        "tracking.wandb.mode": "offline",
    }
    assert all(decision.why for decision in decisions)
    assert replace_values(config, {decision.key: "auto" for decision in decisions}) == CONFIG


def test_stated_values_are_not_decided_again():
    stated = {"data.lanes": 2, "cluster.device": "cuda", "tracking.wandb.mode": "off"}
    config = replace_values(CONFIG, stated)
    assert resolve_run(config, FACTS) == (config, [])


def test_wandb_goes_online_with_a_key():
    assert resolve_run(CONFIG, facts(wandb_key=True))[0].tracking.wandb.mode == "online"


def test_a_precision_that_the_device_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"train\.precision: fp16 needs cluster\.device cuda"):
        resolve_run(replace_values(CONFIG, {"train.precision": "fp16"}), FACTS)


@settings(deadline=None)
@given(st.integers(0, 10_000_000))
def test_lanes_are_a_power_of_two_with_enough_shards_each(shards):
    lanes = resolve_run(CONFIG, facts(unit_shards=shards))[0].data.lanes
    assert lanes in {2**i for i in range(8)}
    assert lanes == 1 or lanes * 8 <= shards
    assert lanes == 128 or lanes * 2 * 8 > shards


@settings(deadline=None)
@given(
    batch=st.integers(1, 3000),
    world=st.integers(1, 3000),
    seq_len=st.integers(1, 40_000),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_batches_are_cut_to_hold_every_sample_within_the_token_limit(batch, world, seq_len, device):
    config = replace_values(CONFIG, {"train.global_batch": batch, "task.seq_len": seq_len})
    if world > batch:
        with pytest.raises(ConfigError, match=r"(?s)train\.global_batch .* cluster\.nodes\.max"):
            resolve_world(config, facts(device=device), world)
        return
    plan = resolve_world(config, facts(device=device), world)
    largest_slice = -(-batch // world)
    assert plan.micro_batch * plan.accumulation >= largest_slice
    assert plan.micro_batch * (plan.accumulation - 1) < largest_slice
    assert plan.micro_batch == 1 or plan.micro_batch * seq_len <= TOKENS_AT_ONCE[device]
    # The padding is less than one sample a micro batch.
    assert plan.micro_batch * plan.accumulation - largest_slice < plan.accumulation


def test_a_stated_micro_batch_is_kept_and_accumulated():
    plan = resolve_world(replace_values(CONFIG, {"train.micro_batch": 5}), FACTS, 2)
    assert (plan.micro_batch, plan.accumulation) == (5, 3)
    assert [decision.key for decision in plan.decisions] == ["cluster.cpus_per_rank"]


def test_the_longest_phase_decides_how_much_is_computed_at_once():
    phases = [{"from_step": 5, "seq_len": 8192}]
    config = RunConfig.model_validate(CONFIG.model_dump() | {"data": {"train": [{"path": "a"}], "phases": phases}})
    assert resolve_world(CONFIG, FACTS, 2).micro_batch == 6
    assert resolve_world(config, FACTS, 2).micro_batch == 1


def test_cpus_are_shared_by_the_ranks_of_a_node():
    assert resolve_world(CONFIG, FACTS, 2).cpus_per_rank == 4
    assert resolve_world(CONFIG, facts(cpus_per_node=1), 2).cpus_per_rank == 1


def test_only_what_depends_on_the_world_is_undecided():
    config, decisions = resolve_run(CONFIG, FACTS)
    again = undecide(config, decisions)
    assert again.cluster.device == "auto"
    assert again.data.lanes == 8
    assert again.tracking.wandb.mode == "offline"


def test_a_config_that_is_written_once_more_keeps_what_its_run_has_decided():
    began_with, _ = resolve_run(CONFIG, FACTS)
    again = keep_decided(CONFIG, began_with)
    assert again.data.lanes == 8
    assert again.cluster.device == "auto"  # another cluster may have another
    stated = keep_decided(replace_values(CONFIG, {"data.lanes": 4}), began_with)
    assert stated.data.lanes == 4  # a change, which the resume will refuse
