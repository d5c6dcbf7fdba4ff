"""Small run configs for the trainer's tests."""

from typing import Any

from orchestrator.config.run import RunConfig

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
VOCAB = 300


def small_config(model: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    """A config of everything small; `sections` replace whole sections or top keys."""
    value: dict[str, Any] = {
        "name": "small",
        "seed": 5,
        "data": {"train": [{"path": "data/small"}]},
        "prepare": {"tokens": {"train_bpe": VOCAB}},
        "task": {"seq_len": 16},
        "model": {"transformers": LLAMA if model is None else model},
        "train": {"steps": 6, "global_batch": 12, "micro_batch": 4, "precision": "fp32", "clip_norm": 1.0},
        "cluster": {"device": "cpu"},
    }
    return RunConfig.model_validate(value | sections)
