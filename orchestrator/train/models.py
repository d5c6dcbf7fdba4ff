"""From the config's model section to a causal language model of transformers: check the keys, build, describe.

Building allocates on whatever device context it is called under (meta, zero.Init) and initialises nothing: values
always come from a FragmentSource (weights.py, or a checkpoint)."""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError
from orchestrator.train.description import ModelDescription, TensorShape

# All that model classes raise for keys that do not go together; ConfigErrors of ours pass through.
_BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
# Read by transformers' configs although they are no field of theirs: older names of rope_parameters.
_OLDER_KEYS = {"rope_theta", "rope_scaling"}
# Longhaul decides these itself: another key of the config says so.
_OWNED_KEYS = {"dtype": "by train.precision", "torch_dtype": "by train.precision", "use_cache": "off in training"}


def build_model(config: RunConfig, vocab_size: int) -> nn.Module:
    """The model with values not yet set, float32, tied where its config says so."""
    model_config = read_model_config(config, vocab_size)
    try:
        with no_init_weights():
            model: Any = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32)
        model.tie_weights()
    except _BUILD_ERRORS as error:
        raise _not_buildable(config, error) from error
    module: nn.Module = model
    return module


def describe_model(config: RunConfig, vocab_size: int) -> ModelDescription:
    """Build on the meta device, which takes no memory, and write down what is there."""
    with torch.device("meta"):
        model = build_model(config, vocab_size)
    model_config: Any = model.config
    text = model_config.get_text_config()
    return ModelDescription(
        model_type=model_config.model_type,
        tensors=tuple(TensorShape(name, tuple(tensor.shape), _kind(tensor)) for name, tensor in own_tensors(model)),
        tied=tied_names(model),
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
    )


def own_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Every parameter and persistent buffer once, under the first name it has."""
    kept = model.state_dict(keep_vars=True).keys()
    return [*model.named_parameters(), *((name, buffer) for name, buffer in model.named_buffers() if name in kept)]


def tied_names(model: nn.Module) -> dict[str, str]:
    """For each further name of a tied parameter, its first."""
    first = {parameter: name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[parameter] for name, parameter in every if first[parameter] != name}


def read_model_config(config: RunConfig, vocab_size: int) -> Any:
    """The transformers config of this run, checked against tokenizer and sequence length."""
    section = config.model
    try:
        if section.pretrained is not None:
            model_config = AutoConfig.from_pretrained(_pretrained_folder(section.pretrained), local_files_only=True)
            _check_model_type(model_config.model_type, "model.pretrained")
        else:
            keys = dict(section.transformers or {})
            model_type = keys.pop("model_type")
            _check_model_type(model_type, "model.transformers.model_type")
            _check_keys(model_type, keys)
            model_config = AutoConfig.for_model(model_type, **keys)
        text = model_config.get_text_config()
    except _BUILD_ERRORS as error:
        raise _not_buildable(config, error) from error
    if section.transformers is not None and "vocab_size" not in section.transformers:
        text.vocab_size = vocab_size
    model_config.use_cache = text.use_cache = False
    where = "model.transformers" if section.transformers else "model.pretrained"
    _check_sizes(text, vocab_size, config.task.seq_len, where)
    return model_config


def _check_sizes(text: Any, vocab_size: int, seq_len: int, where: str) -> None:
    untold = [key for key in ("vocab_size", "hidden_size", "num_hidden_layers") if getattr(text, key, None) is None]
    if untold:
        raise ConfigError(
            f"a {text.model_type} config does not tell its {', '.join(untold)}; not supported", where=where
        )
    if text.vocab_size < vocab_size:
        raise ConfigError(
            f"the model has {text.vocab_size} vocabulary entries, the tokenizer {vocab_size}",
            where=f"{where}.vocab_size",
            remedy="leave vocab_size out, or use a tokenizer with fewer entries (prepare.tokens)",
        )
    positions = getattr(text, "max_position_embeddings", None)  # some models know no limit
    if positions is not None and positions < seq_len:
        raise ConfigError(
            f"the model has {positions} positions, task.seq_len is {seq_len}",
            where=f"{where}.max_position_embeddings",
            remedy=f"set it to at least {seq_len}, or lower task.seq_len",
        )
    heads, key_heads = getattr(text, "num_attention_heads", None), getattr(text, "num_key_value_heads", None)
    if isinstance(heads, int) and isinstance(key_heads, int) and key_heads and heads % key_heads:
        raise ConfigError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {key_heads}", where=where)


def _check_model_type(model_type: Any, where: str) -> None:
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        near = _nearest(str(model_type), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise ConfigError(f"{model_type!r} is no causal language model of transformers{near}", where=where)


def _check_keys(model_type: str, keys: dict[str, Any]) -> None:
    config_class = type(AutoConfig.for_model(model_type))
    known = {field.name for field in fields(config_class)} | set(config_class.attribute_map)
    if "rope_parameters" in known:
        known |= _OLDER_KEYS
    problems = [f"{key} is decided elsewhere ({owner})" for key, owner in _OWNED_KEYS.items() if key in keys]
    unknown = [key for key in keys if key not in known and key not in _OWNED_KEYS]
    problems += [f"{key} is no key of a {model_type} config{_nearest(key, known)}" for key in unknown]
    if problems:
        raise ConfigError("; ".join(problems), where="model.transformers")


def _nearest(word: str, words: Iterable[str]) -> str:
    near = get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _pretrained_folder(path: str) -> Path:
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{path} is no transformers directory: it has no config.json",
            where="model.pretrained",
            remedy="give a local directory made by save_pretrained; nothing is downloaded",
        )
    return folder


def _not_buildable(config: RunConfig, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if config.model.pretrained is not None:
        return ConfigError(f"the model cannot be built: {reason}", where=f"model.pretrained {config.model.pretrained}")
    keys = ", ".join(f"{key}={value!r}" for key, value in (config.model.transformers or {}).items())
    return ConfigError(f"the model cannot be built: {reason}", where="model.transformers", remedy=f"check {keys}")


def _kind(tensor: torch.Tensor) -> Any:
    if not isinstance(tensor, nn.Parameter):
        return "buffer"
    return "trainable" if tensor.requires_grad else "frozen"
