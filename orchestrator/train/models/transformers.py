"""From the config's model section to a model of transformers for the task. Called by build.py."""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import is_flash_attn_2_available

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError
from orchestrator.train.models.sizes import num_outputs

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
# What texts are filled up with where a model has no token of its own for it. Llama and GPT-2 find a text's end by it.
PADDING = 0
# Causal models that keep documents apart by positions alone: measured, since others take them and let documents mix.
APART = (
    "gemma", "gemma2", "gpt2", "gpt_neox", "granite", "llama", "mistral", "mixtral", "olmo2", "olmo3", "phi3", "qwen2",
    "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip


class Kind(NamedTuple):
    """Models for one task: how people call them, what builds them, the model types there are."""

    name: str
    build: Any
    known: Iterable[str]
    keys: frozenset[str] = frozenset()  # that are no field of their configs' classes


KINDS = {
    "causal_lm": Kind("causal language model", AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "text_classification": Kind(
        "text classifier",
        AutoModelForSequenceClassification,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        frozenset({"num_labels"}),
    ),
    "image_classification": Kind(
        "image classifier",
        AutoModelForImageClassification,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        frozenset({"num_labels"}),
    ),
}


def build_transformer(config: RunConfig, vocab_size: int | None) -> nn.Module:
    """The model with values not yet set, float32, tied where its config says so. Without tokens no `vocab_size`."""
    model_config = read_model_config(config, vocab_size)
    attention = _attention(config)
    try:
        with no_init_weights():
            model: Any = KINDS[config.task.name].build.from_config(
                model_config, dtype=torch.float32, attn_implementation=attention
            )
        model.tie_weights()
    except _BUILD_ERRORS as error:
        raise _not_buildable(config, error) from error
    module: nn.Module = model
    return module


def read_model_config(config: RunConfig, vocab_size: int | None) -> Any:
    """The transformers config of this run, checked against task, tokenizer and sequence length."""
    section, kind = config.model, KINDS[config.task.name]
    try:
        if section.pretrained is not None:
            folder = _pretrained_folder(section.pretrained)
            model_config = AutoConfig.from_pretrained(folder, local_files_only=True, **_labels(config))
            _check_model_type(model_config.model_type, kind, "model.pretrained")
        else:
            keys = dict(section.transformers or {})
            model_type = keys.pop("model_type")
            _check_model_type(model_type, kind, "model.transformers.model_type")
            _check_keys(model_type, keys, kind)
            model_config = AutoConfig.for_model(model_type, **keys | _labels(config))
        text = model_config.get_text_config()
    except _BUILD_ERRORS as error:
        raise _not_buildable(config, error) from error
    where = "model.transformers" if section.transformers else "model.pretrained"
    if vocab_size is None:
        return model_config
    if section.transformers is not None and "vocab_size" not in section.transformers:
        text.vocab_size = vocab_size
    model_config.use_cache = text.use_cache = False
    if config.task.name == "text_classification" and text.pad_token_id is None:
        model_config.pad_token_id = text.pad_token_id = PADDING
    _check_sizes(text, vocab_size, config.task.seq_len, where)
    if config.task.documents_apart:
        _check_documents_apart(model_config.model_type, where)
    return model_config


def padding_token(config: RunConfig) -> int:
    """What texts are filled up with to one length."""
    if config.model.transformers is None and config.model.pretrained is None:
        return PADDING
    token = read_model_config(config, None).get_text_config().pad_token_id
    return PADDING if token is None else int(token)


def balancing_share(config: RunConfig) -> float:
    """What the loss that balances a mixture of experts counts; 0 unless its key output_router_logits asks for it."""
    if config.model.transformers is None and config.model.pretrained is None:
        return 0.0
    text = read_model_config(config, None).get_text_config()
    return float(getattr(text, "router_aux_loss_coef", 0.0)) if getattr(text, "output_router_logits", False) else 0.0


def _labels(config: RunConfig) -> dict[str, int]:
    """How many outputs a classifier has, which transformers would take to be two. A trained one may tell itself."""
    if config.task.name == "causal_lm" or (config.model.pretrained is not None and config.num_classes is None):
        return {}
    keys = config.model.transformers or {}
    if not (type(keys.get("num_labels", 1)) is int and keys.get("num_labels", 1) > 0) or config.num_classes is None:
        raise ConfigError("needs num_labels, or task.classes: how many classes there are", where="model.transformers")
    return {"num_labels": num_outputs(config, None)}


def _attention(config: RunConfig) -> str | None:
    """auto: transformers chooses, which is sdpa wherever a model knows it."""
    attention = config.model.attention
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise ConfigError(
            "flash_attention_2 needs the package flash-attn and a GPU that it knows",
            where="model.attention",
            remedy="take sdpa, which uses flash kernels of torch where it can",
        )
    return None if attention == "auto" else attention


def _check_documents_apart(model_type: str, where: str) -> None:
    if model_type not in APART:
        raise ConfigError(
            f"it is not known of {model_type} models that they keep documents apart",
            where=f"{where}.model_type",
            remedy=f"task.documents_apart=false, or one of {', '.join(APART)}",
        )


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


def _check_model_type(model_type: Any, kind: Kind, where: str) -> None:
    if model_type not in kind.known:
        near = _nearest(str(model_type), kind.known)
        raise ConfigError(f"{model_type!r} is no {kind.name} of transformers{near}", where=where)


def _check_keys(model_type: str, keys: dict[str, Any], kind: Kind) -> None:
    config_class = type(AutoConfig.for_model(model_type))
    known = {field.name for field in fields(config_class)} | set(config_class.attribute_map) | kind.keys
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
