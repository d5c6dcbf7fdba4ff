"""A run's model as a Hugging Face directory: config, tokenizer, safetensors. Anybody's `from_pretrained` reads it, and
so does model.pretrained. Models that are not of transformers leave as safetensors, which model.weights reads."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from orchestrator.checkpoint.reader import StateReader
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import DataError
from orchestrator.data.decoding.texts import open_tokenizer
from orchestrator.data.shards.chain import TokenizerInfo
from orchestrator.train.engine import DTYPES
from orchestrator.train.exchange.leaving import LeavingModel
from orchestrator.train.exchange.shards import write_shards
from orchestrator.train.models.build import build_model
from orchestrator.train.models.tensors import parameters_on_meta

GENERATION = "generation_config.json"
OF_TOKENIZERS = (  # names of files beside tokenizer.json, in directories of transformers
    "added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """`dtype` is fp32, bf16 or fp16; None: what the run computed with."""

    dtype: str | None
    shard_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    tensors: int
    size_bytes: int
    dtype: str
    model_class: str


def export_model(
    config: RunConfig, tokenizer: TokenizerInfo | None, source: StateReader, folder: Path, wish: Wish
) -> Exported:
    """Fill an empty folder. Without tokens no `tokenizer`."""
    with parameters_on_meta():
        model = build_model(config, None if tokenizer is None else tokenizer.vocab_size)
    dtype = DTYPES[wish.dtype or config.train.precision]
    leaving = LeavingModel(model, source, source.tensors, dtype if wish.dtype else None).tensors()
    size_bytes = write_shards(folder, leaving, wish.shard_bytes)
    if isinstance(model, PreTrainedModel):
        _write_config(folder, config, model, dtype, tokenizer)
    if tokenizer is not None:
        _write_tokenizer(folder, config, tokenizer)
    exported = Exported(
        tensors=len(leaving),
        size_bytes=size_bytes,
        dtype=str(dtype).removeprefix("torch."),
        model_class=f"{type(model).__module__}.{type(model).__qualname__}",
    )
    (folder / "README.md").write_text(_describe(config, source.step, exported, model))
    return exported


def _write_config(
    folder: Path, config: RunConfig, model: PreTrainedModel, dtype: torch.dtype, tokenizer: TokenizerInfo | None
) -> None:
    own: Any = model.config
    own.architectures = [type(model).__name__]
    own.dtype = dtype
    if tokenizer is not None:
        own.use_cache = own.get_text_config().use_cache = True  # off in training only
    stored = Path(config.model.pretrained or "") / GENERATION
    if config.model.pretrained is None and tokenizer is not None:
        _name_end_mark(own, config.model.transformers or {}, tokenizer.end_id)
    own.save_pretrained(folder)
    if config.model.pretrained is not None and stored.is_file():
        shutil.copy(stored, folder)
    elif model.can_generate():
        GenerationConfig.from_model_config(own).save_pretrained(folder)


def _name_end_mark(own: Any, stated: dict[str, Any], end_id: int) -> None:
    """A document begins behind the end mark of the one before. What the config itself says stays."""
    text = own.get_text_config()
    for key in ("bos_token_id", "eos_token_id"):
        if key not in stated:
            setattr(text, key, end_id)


def _write_tokenizer(folder: Path, config: RunConfig, tokenizer: TokenizerInfo) -> None:
    """The files of the directory that it came from, or those that make the same of the run's own."""
    given = Path(str(config.prepare.tokens.tokenizer)) if config.prepare.tokens is not None else Path()
    used = Path(tokenizer.path)
    if not used.is_file():
        raise DataError(
            "the run's tokenizer is gone", where=str(used), remedy="prepare the data again, or put the work folder back"
        )
    there = given / "tokenizer.json"
    if (given / "tokenizer_config.json").is_file() and there.is_file() and there.read_bytes() == used.read_bytes():
        for name in OF_TOKENIZERS:
            if (given / name).is_file():
                shutil.copy(given / name, folder)
        return
    mark = open_tokenizer(tokenizer).id_to_token(tokenizer.end_id)
    length = config.task.seq_len
    fast = PreTrainedTokenizerFast(tokenizer_file=str(used), bos_token=mark, eos_token=mark, model_max_length=length)
    fast.save_pretrained(folder)


_README = """# {name}

Run {name}, step {step}: {tensors} tensors in {dtype}.{adapters}

{how}

Trained by Longhaul with

```yaml
{stated}
```
"""


def _describe(config: RunConfig, step: int, exported: Exported, model: nn.Module) -> str:
    """README.md: what it is, and how it is loaded."""
    kind = type(model).__name__
    how = f'`transformers.{kind}.from_pretrained(FOLDER, dtype="auto")` loads it; in Longhaul, model.pretrained.'
    if not isinstance(model, PreTrainedModel):
        how = f"The tensors are those of {exported.model_class}; in Longhaul, `model.weights` begins with them."
    sections = {"task": config.task, "model": config.model, "table": config.data.table}
    stated = {name: one.model_dump(mode="json", exclude_defaults=True) for name, one in sections.items() if one}
    return _README.format(
        name=config.name,
        step=step,
        tensors=exported.tensors,
        dtype=exported.dtype,
        adapters=" The adapters are added to the weights." if config.model.lora is not None else "",
        how=how,
        stated=yaml.safe_dump(stated, sort_keys=False).rstrip(),
    )
