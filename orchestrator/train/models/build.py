"""From the config's model section to a model, and to its description.

Building allocates on whatever device context it is called under (meta, zero.Init) and initialises nothing: values
always come from a FragmentSource (initial.py, pretrained.py, or a checkpoint)."""

from typing import Any

import torch
from torch import nn

from orchestrator.config.run import RunConfig
from orchestrator.train.models.description import ModelDescription, TensorShape
from orchestrator.train.models.recompute import recompute_activations
from orchestrator.train.models.tensors import kind_of, own_tensors, tied_names
from orchestrator.train.models.transformers import build_transformer


def build_model(config: RunConfig, vocab_size: int | None) -> nn.Module:
    """The model with values not yet set, float32, tied where its config says so. Without tokens no `vocab_size`."""
    model = build_transformer(config, vocab_size)
    if config.train.checkpoint_activations:
        recompute_activations(model)
    return model


def describe_model(config: RunConfig, vocab_size: int | None) -> ModelDescription:
    """Build on the meta device, which takes no memory, and write down what is there."""
    with torch.device("meta"):
        model = build_model(config, vocab_size)
    model_config: Any = model.config
    text = model_config.get_text_config()
    return ModelDescription(
        model_type=model_config.model_type,
        tensors=tuple(TensorShape(name, tuple(tensor.shape), kind_of(tensor)) for name, tensor in own_tensors(model)),
        tied=tied_names(model),
        layers=getattr(text, "num_hidden_layers", 0),  # models of pictures need not tell
        hidden_size=getattr(text, "hidden_size", 0),
        vocab_size=0 if vocab_size is None else text.vocab_size,
    )
