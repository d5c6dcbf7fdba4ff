"""From the config's model section to a model, and to its description.

Building allocates on whatever device context it is called under (meta, zero.Init) and initialises nothing: values
always come from a FragmentSource (initial.py, pretrained.py, or a checkpoint)."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from orchestrator.config.run import RunConfig
from orchestrator.train.models.cnn import Cnn
from orchestrator.train.models.custom import build_custom
from orchestrator.train.models.description import ModelDescription, TensorShape
from orchestrator.train.models.freeze import freeze
from orchestrator.train.models.inexact import name_inexact
from orchestrator.train.models.linear import Linear
from orchestrator.train.models.mlp import Mlp
from orchestrator.train.models.pretrained import StoredTensors
from orchestrator.train.models.recompute import recompute_activations
from orchestrator.train.models.rnn import Rnn
from orchestrator.train.models.sizes import num_inputs, num_outputs
from orchestrator.train.models.tensors import kind_of, own_tensors, parameters_on_meta, tied_names
from orchestrator.train.models.transformers import build_transformer


def build_model(config: RunConfig, vocab_size: int | None) -> nn.Module:
    """The model with values not yet set, float32, tied where its config says so. Without tokens no `vocab_size`."""
    model = _build_whole(config, vocab_size)
    if config.model.lora is not None:
        from orchestrator.train.models.lora import add_adapters  # imports peft, which takes a second

        add_adapters(model, config.model.lora, train_head=config.model.new_head)
    if config.model.freeze:
        freeze(model, config.model.freeze)
    if config.train.checkpoint_activations:
        recompute_activations(model)
    return model


def _build_whole(config: RunConfig, vocab_size: int | None) -> nn.Module:
    section = config.model
    if section.custom is not None:
        return build_custom(section.custom)
    if section.linear is not None:
        inputs, outputs = num_inputs(config, section.linear.inputs), num_outputs(config, vocab_size)
        return Linear(inputs, outputs, bias=section.linear.bias)
    if section.mlp is not None:
        return Mlp(num_inputs(config, section.mlp.inputs), num_outputs(config, vocab_size), section.mlp)
    if section.cnn is not None:
        return Cnn(num_outputs(config, vocab_size), section.cnn)
    if section.rnn is not None:
        assert vocab_size is not None
        each_token = config.task.name == "causal_lm"
        return Rnn(vocab_size, num_outputs(config, vocab_size), section.rnn, each_token=each_token)
    return build_transformer(config, vocab_size)


def describe_model(config: RunConfig, vocab_size: int | None, *, begins: bool = False) -> ModelDescription:
    """Build without the memory of parameters, and write down what is there.

    Where a run `begins`, also what the weights that it begins with do not bring: their files must be there."""
    with parameters_on_meta():
        model = build_model(config, vocab_size)
    section = config.model
    own: Any = model.config if isinstance(model, PreTrainedModel) else None
    text = own and own.get_text_config()
    return ModelDescription(
        model_type=own.model_type if own else type(model).__name__.lower(),
        tensors=tuple(TensorShape(name, tuple(tensor.shape), kind_of(tensor)) for name, tensor in own_tensors(model)),
        tied=tied_names(model),
        layers=getattr(text, "num_hidden_layers", 0),  # models of pictures need not tell
        hidden_size=getattr(text, "hidden_size", 0),
        vocab_size=0 if vocab_size is None else getattr(text, "vocab_size", vocab_size),
        inexact=name_inexact(model),
        begins_anew=StoredTensors(config, model).begins_anew
        if begins and (section.pretrained or section.weights)
        else (),
    )
