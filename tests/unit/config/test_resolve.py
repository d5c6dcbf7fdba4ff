"""Every `auto` becomes a value with a reason; batches are cut for any world."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.check import replace_values
from orchestrator.config.resolve import (
    SAMPLES_AT_ONCE,
    TOKENS_AT_ONCE,
    Decision,
    Facts,
    keep_decided,
    resolve_run,
    resolve_world,
    undecide,
)
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError

FACTS = Facts(device="cpu", cpus_per_node=8, remote=False, sample_bytes=0, wandb_key=False)
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

IMAGES = RunConfig.model_validate(
    {
        **CONFIG.model_dump(),
        "data": {"train": [{"path": "a"}], "fields": {"image": {"members": ["jpg"]}}},
        "prepare": {},
        "task": {"name": "image_classification"},
    }
)


def facts(**changes) -> Facts:
    return Facts(**{name: changes.get(name, getattr(FACTS, name)) for name in Facts.__dataclass_fields__})


def test_what_is_auto_is_decided_with_reasons_and_nothing_else_changes():
    config, decisions = resolve_run(CONFIG, FACTS)
    assert {d.key: d.value for d in decisions} == {
        "data.run_samples": 1,
        "cluster.device": "cpu",
        "tracking.wandb.mode": "offline",
    }
    assert all(decision.why for decision in decisions)
    assert replace_values(config, {decision.key: "auto" for decision in decisions}) == CONFIG


def test_stated_values_are_not_decided_again():
    stated = {"data.run_samples": 2, "cluster.device": "cuda", "tracking.wandb.mode": "off"}
    config = replace_values(CONFIG, stated)
    assert resolve_run(config, FACTS) == (config, [])


def test_wandb_goes_online_with_a_key():
    assert resolve_run(CONFIG, facts(wandb_key=True))[0].tracking.wandb.mode == "online"


def test_a_precision_that_the_device_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"train\.precision: fp16 needs cluster\.device cuda"):
        resolve_run(replace_values(CONFIG, {"train.precision": "fp16"}), FACTS)


@pytest.mark.parametrize(
    ("config", "remote", "sample_bytes", "run_samples"),
    [
        (IMAGES, False, 100_000, 1),
        (IMAGES, True, 100_000, 20),
        (IMAGES, True, 3 * 2**20, 1),
        (IMAGES, True, 10, 262_144 // 64),  # a window of few runs would hardly be shuffled
        (IMAGES, True, 0, 262_144 // 64),
        (CONFIG, True, 0, 1),
    ],
)
def test_samples_of_a_store_stay_together_in_runs_that_are_worth_a_request(config, remote, sample_bytes, run_samples):
    decided, _ = resolve_run(config, facts(remote=remote, sample_bytes=sample_bytes))
    assert decided.data.run_samples == run_samples


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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_samples_that_have_no_length_are_limited_in_number(device):
    config = replace_values(IMAGES, {"train.global_batch": 1000})
    plan = resolve_world(config, facts(device=device), 3)
    assert plan.micro_batch <= SAMPLES_AT_ONCE[device] < 2 * plan.micro_batch
    assert plan.micro_batch * plan.accumulation >= 334


def test_in_the_last_step_ranks_may_be_without_a_sample():
    def with_phases(*phases):
        return replace_values(CONFIG, {"data.phases": list(phases)})

    assert resolve_world(with_phases({"from_step": 9, "global_batch": 1}), FACTS, 24).accumulation == 1
    for phases in ([{"from_step": 8, "global_batch": 1}], [{"from_step": 3, "global_batch": 23}, {"from_step": 9}]):
        with pytest.raises(ConfigError, match="too small for 24 ranks"):
            resolve_world(with_phases(*phases), FACTS, 24)


def test_a_last_step_that_is_larger_decides_the_micro_batches_too():
    config = replace_values(CONFIG, {"data.phases": [{"from_step": 9, "global_batch": 48}]})
    assert resolve_world(config, FACTS, 2).micro_batch * resolve_world(config, FACTS, 2).accumulation >= 24


def test_a_stated_micro_batch_is_kept_and_accumulated():
    plan = resolve_world(replace_values(CONFIG, {"train.micro_batch": 5}), FACTS, 2)
    assert (plan.micro_batch, plan.accumulation) == (5, 3)
    assert [decision.key for decision in plan.decisions] == ["cluster.cpus_per_rank"]


def test_the_longest_phase_decides_how_much_is_computed_at_once():
    phases = [{"from_step": 5, "seq_len": 8192}]
    config = RunConfig.model_validate(CONFIG.model_dump() | {"data": {"train": [{"path": "a"}], "phases": phases}})
    assert resolve_world(CONFIG, FACTS, 2).micro_batch == 6
    assert resolve_world(config, FACTS, 2).micro_batch == 1


@pytest.mark.parametrize(
    ("activation_bytes", "free_bytes", "micro_batch", "why"),
    [
        (None, 2**30, 6, "could not be counted"),
        (2**20, None, 6, "cluster.device_memory_gb"),
        (2**20, 2**30, 6, "hold 716"),
        (2**28, 2**30, 2, "hold 2"),
        (2**30, 0, 1, "hold 1"),
    ],
)
def test_no_more_is_computed_at_once_than_memory_holds(activation_bytes, free_bytes, micro_batch, why):
    plan = resolve_world(CONFIG, facts(activation_bytes=activation_bytes, free_bytes=free_bytes), 2)
    assert plan.micro_batch == micro_batch
    assert why in plan.decisions[0].why


def test_cpus_are_shared_by_the_ranks_of_a_node():
    assert resolve_world(CONFIG, FACTS, 2).cpus_per_rank == 4
    assert resolve_world(CONFIG, facts(cpus_per_node=1), 2).cpus_per_rank == 1


def test_only_what_depends_on_the_world_is_undecided():
    config, decisions = resolve_run(CONFIG, FACTS)
    again = undecide(config, decisions)
    assert again.cluster.device == "auto"
    assert again.data.run_samples == 1
    assert again.tracking.wandb.mode == "offline"


def test_what_was_asked_for_instead_of_auto_is_put_back_too():
    asked = replace_values(CONFIG, {"train.steps": None, "train.epochs": 2.5})
    decided = [Decision("train.steps", 7, "", was=None), Decision("train.epochs", None, "", was=2.5)]
    config = replace_values(asked, {decision.key: decision.value for decision in decided})
    assert (config.train.steps, config.train.epochs) == (7, None)
    assert undecide(config, decided) == asked


def test_a_config_that_is_written_once_more_keeps_what_its_run_has_decided():
    began_with, _ = resolve_run(CONFIG, FACTS)
    again = keep_decided(CONFIG, began_with)
    assert again.data.run_samples == 1
    assert again.cluster.device == "auto"  # another cluster may have another
    stated = keep_decided(replace_values(CONFIG, {"data.run_samples": 4}), began_with)
    assert stated.data.run_samples == 4  # a change, which the resume will refuse


def ahead(**changes) -> RunConfig:
    return replace_values(CONFIG, {"prepare.mode": "ahead", **changes})


@pytest.mark.parametrize(
    ("cpus", "changes", "preparing", "per_rank"),
    [
        (8, {}, 2, 3),
        (3, {}, 1, 1),
        (64, {}, 16, 24),
        (8, {"prepare.cpus": 4}, 4, 2),
        (8, {"cluster.cpus_per_rank": 3}, 2, 3),
        (9, {"cluster.cpus_per_rank": 4}, 1, 4),
    ],
)
def test_cpus_that_prepare_ahead_are_taken_from_the_ranks(cpus, changes, preparing, per_rank):
    plan = resolve_world(ahead(**changes), facts(cpus_per_node=cpus), 2)
    assert (plan.prepare_cpus, plan.cpus_per_rank) == (preparing, per_rank)


def test_preparing_first_leaves_all_cpus_to_the_ranks():
    assert resolve_world(replace_values(CONFIG, {"prepare.cpus": 4}), FACTS, 2).prepare_cpus == 0
    assert resolve_world(CONFIG, FACTS, 2).cpus_per_rank == 4


def test_what_only_all_data_can_tell_is_refused_where_it_is_prepared_ahead():
    changes = {"train.steps": None, "train.epochs": 2.0, "data.phases": [{"from_step": 3, "seq_len": 64}]}
    replace_values(CONFIG, changes)
    with pytest.raises(ConfigError) as caught:
        ahead(**changes)
    assert "train.epochs: how long a pass is" in str(caught.value)
    assert "data.phases.0.seq_len: another length begins" in str(caught.value)
    ahead(**{"data.phases": [{"from_step": 3, "seq_len": 1024, "global_batch": 48, "weights": {"a": 2.0}}]})


@pytest.mark.parametrize(
    ("free", "ranks", "snapshots", "gib"),
    [
        (None, 4, "mirrored", 10),
        (10 * 2**30, 4, "mirrored", 10),  # 3 own parts and 2 mirrored ones of each of the 2 ranks of a node
        (10 * 2**30 - 1, 4, "own", 6),
        (6 * 2**30 - 1, 4, "none", 4),
        (12 * 2**30, 2, "mirrored", 12),  # a single node mirrors nothing
        (12 * 2**30 - 1, 2, "none", 8),
    ],
)
def test_snapshots_are_taken_as_far_as_a_node_has_memory_for_them(free, ranks, snapshots, gib):
    plan = resolve_world(CONFIG, facts(snapshot_bytes=4 * 2**30, node_free_bytes=free), ranks)
    assert (plan.snapshots, plan.vault_bytes) == (snapshots, gib * 2**30)
    (decision,) = (one for one in plan.decisions if one.key == "checkpoint.snapshot_every")
    assert decision.value == (None if snapshots == "none" else "auto")
    assert f"{gib}.00 GiB" in decision.why


def test_who_wants_no_snapshots_gets_none_and_keeps_memory_for_checkpoints():
    config = replace_values(CONFIG, {"checkpoint.snapshot_every": None})
    plan = resolve_world(config, facts(snapshot_bytes=4 * 2**30), 4)
    assert (plan.snapshots, plan.vault_bytes) == ("none", 4 * 2**30)
