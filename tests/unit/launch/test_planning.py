"""Every shipped config plans: its model is built on meta, its batch is cut and its state is counted."""

from dataclasses import replace
from pathlib import Path

import pytest

from launch.cluster import least_cpus
from launch.planning import check_it_fits, check_world_sizes, describe_cached, plan_worlds, planned_vocab
from orchestrator.config.load import load_config
from orchestrator.config.resolve import Facts
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError, DoesNotFit

CONFIGS = Path(__file__).parents[3] / "configs"
FACTS = Facts(device="cuda", cpus_per_node=64, remote=False, sample_bytes=0, wandb_key=False)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_plans(path: Path) -> None:
    config = load_config(path).config
    nodes = sorted({config.cluster.nodes.min, config.cluster.nodes.max})
    description = describe_cached(config, planned_vocab(config))
    rows = plan_worlds(config, FACTS, description, nodes)
    for row in rows:
        size = row.plan.world_size
        assert row.plan.micro_batch * row.plan.accumulation * size >= config.train.global_batch
        state = [row.memory[stage].device_bytes for stage in (0, 3)]
        assert state[0] >= 12 * description.num_trainable * (config.optim.name == "adamw")
        assert size < 8 or state[1] < state[0]


def test_what_does_not_fit_is_refused_with_a_stage_that_would() -> None:
    config = load_config(CONFIGS / "llama-7b.yaml", sets=["deepspeed.zero_optimization.stage=0"]).config
    description = describe_cached(config, planned_vocab(config))
    [row] = plan_worlds(config, FACTS, description, [8])
    with pytest.raises(DoesNotFit, match=r"deepspeed.zero_optimization.stage=[123]"):
        check_it_fits(config, row, 40 * 2**30)
    check_it_fits(config, row, None)


def ahead(*sets: str) -> RunConfig:
    stated = ["prepare.mode=ahead", "cluster.device=cpu", "cluster.ranks_per_node=2", "train.epochs=null"]
    return load_config(CONFIGS / "quickstart.yaml", sets=[*stated, "train.steps=90", *sets]).config


@pytest.mark.parametrize(
    ("cpus", "sets"), [(2, []), (8, ["cluster.cpus_per_rank=4"]), (8, ["prepare.cpus=7"]), (9, ["prepare.cpus=8"])]
)
def test_a_node_without_a_cpu_for_preparing_ahead_is_refused_with_what_would_help(cpus: int, sets: list[str]) -> None:
    config = ahead(*sets)
    facts = replace(FACTS, device="cpu", cpus_per_node=cpus)
    with pytest.raises(ConfigError, match=rf"do not fit into {cpus} CPUs(.|\n)*prepare.mode first"):
        check_world_sizes(config, facts)
    check_world_sizes(config, replace(facts, cpus_per_node=least_cpus(config)))


def test_a_local_ray_has_a_cpu_for_each_rank_and_for_preparing_ahead() -> None:
    assert least_cpus(ahead()) == 3
    assert least_cpus(ahead("prepare.cpus=3", "cluster.cpus_per_rank=4")) == 11
    assert least_cpus(ahead("prepare.mode=first", "cluster.cpus_per_rank=4")) == 2
