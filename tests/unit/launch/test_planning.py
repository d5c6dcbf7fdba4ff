"""Every shipped config plans: its model is built on meta, its batch is cut and its state is counted."""

from pathlib import Path

import pytest

from launch.planning import check_it_fits, describe_cached, plan_worlds, planned_vocab
from orchestrator.config.load import load_config
from orchestrator.config.resolve import Facts
from orchestrator.core.errors import DoesNotFit

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
