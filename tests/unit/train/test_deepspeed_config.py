"""Our config becomes DeepSpeed's JSON."""

from typing import Any

import pytest

from orchestrator.train.deepspeed_config import make_deepspeed_config
from tests.fakes.tiny_model import tiny_config


def make(config: Any) -> dict[str, Any]:
    return make_deepspeed_config(config, data_size=3, micro_batch=2, accumulation=4)


def test_batch_arithmetic_holds() -> None:
    made = make(tiny_config(2))
    assert made["train_batch_size"] == 2 * 4 * 3
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (2, 4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precision_enables_one_arithmetic_at_most(precision: str) -> None:
    made = make(tiny_config(1, precision))
    assert made["bf16"]["enabled"] == (precision == "bf16")
    assert made["fp16"]["enabled"] == (precision == "fp16")


def test_keys_of_the_user_stay_beside_ours() -> None:
    made = make(tiny_config(3, zero_optimization={"offload_param": {"device": "cpu"}}, wall_clock_breakdown=True))
    assert made["zero_optimization"] == {"stage": 3, "offload_param": {"device": "cpu"}}
    assert made["wall_clock_breakdown"]


def test_auto_never_reaches_deepspeed() -> None:
    config = tiny_config(2, train_batch_size="auto", gradient_clipping="auto", bf16={"enabled": "auto"})
    assert "auto" not in str(make(config))


@pytest.mark.parametrize(("stage", "precision", "clip"), [(0, "fp32", 0.0), (0, "bf16", 1.0), (2, "fp32", 1.0)])
def test_deepspeed_clips_except_where_the_engine_does(stage: int, precision: str, clip: float) -> None:
    assert make(tiny_config(stage, precision))["gradient_clipping"] == clip


def test_the_config_is_left_as_it_was() -> None:
    config = tiny_config(2, zero_optimization={"offload_optimizer": {"device": "cpu"}})
    before = config.model_dump()
    make(config)["zero_optimization"]["offload_optimizer"]["device"] = "none"
    assert config.model_dump() == before
