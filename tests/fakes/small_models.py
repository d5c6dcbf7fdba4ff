"""Configs of small models of every kind, modules of a user's, and what a model is fed."""

from typing import Any

import torch
from torch import nn

from orchestrator.config.data import TableSection
from orchestrator.config.model import ModelSection
from orchestrator.config.run import RunConfig
from orchestrator.config.task import TaskSection
from tests.fakes.small_runs import LLAMA, VOCAB, small_config

CLASSES = 3
TABLE = {"columns": ["a", "b", {"name": "kind", "values": ["x", "y", "z"]}], "target": "class"}  # five numbers
PICTURES = {"name": "image_classification", "classes": CLASSES}
CNN: dict[str, Any] = {"channels_in": 1, "blocks": [{"channels": 8}, {"channels": 12, "convolutions": 2}]}


MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


class WithBatchNorm(nn.Module):
    """Two matrices, each before a batch norm; a constant; a parameter that a method of its own sets."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = _make_layer(inputs, 6), _make_layer(6, outputs)
        self.scale = nn.Parameter(torch.empty(outputs))
        self.register_buffer("constant", torch.rand(4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, 2.0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(features)) * self.scale


class WithoutReset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.token


def _make_layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


def model_config(model: dict[str, Any], task: dict[str, Any], *, stage: int = 0, **sections: Any) -> RunConfig:
    """A config whose model and task are as given, whatever its data: here nothing is read."""
    config = small_config(stage=stage, **sections)
    data = config.data.model_copy(
        update={"table": TableSection.model_validate(TABLE) if "tabular" in task["name"] else None}
    )
    chosen = {"model": ModelSection.model_validate(model), "task": TaskSection.model_validate(task), "data": data}
    return config.model_copy(update=chosen)


TABULAR = {"name": "tabular_classification", "classes": CLASSES}
LM = {"name": "causal_lm", "seq_len": 12}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"linear": {}}, TABULAR),
    "mlp": ({"mlp": {"hidden": [7, 9], "activation": "tanh"}}, TABULAR),
    "cnn": ({"cnn": CNN}, PICTURES),
    "lstm": ({"rnn": {"kind": "lstm", "embedding": 8, "hidden": 10, "layers": 2}}, LM),
    "gru": ({"rnn": {"kind": "gru", "embedding": 8, "hidden": 10}}, {"name": "text_classification", "classes": 3}),
    "mixtral": ({"transformers": MIXTRAL}, LM),
    "llama": (
        {"transformers": LLAMA, "attention": "eager"},
        {"name": "text_classification", "classes": 3, "seq_len": 12},
    ),
}


def draw_inputs(task: dict[str, Any], samples: int, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What the model of such a task is fed, and the classes it is to tell."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (samples,), generator=draw)
    if task["name"] == "image_classification":
        return {"pixel_values": torch.rand(samples, 1, 6, 6, generator=draw)}, labels
    if "tabular" in task["name"]:
        return {"features": torch.randn(samples, 5, generator=draw)}, labels
    tokens = torch.randint(1, VOCAB, (samples, 12), generator=draw)
    if task["name"] == "causal_lm":
        return {"input_ids": tokens}, torch.randint(0, VOCAB, (samples, 12), generator=draw)
    lengths = torch.randint(1, 13, (samples,), generator=draw)
    mask = (torch.arange(12) < lengths[:, None]).long()
    return {"input_ids": tokens * mask, "attention_mask": mask}, labels
