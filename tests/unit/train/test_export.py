"""Models that leave: what others load is what was trained."""

import json

import pytest
import torch

from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoTokenizer

from orchestrator.checkpoint.fragments import MASTER, TensorInfo
from orchestrator.checkpoint.layout import CheckpointFacts, dtype_name
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.data.shards.chain import TokenizerInfo
from orchestrator.train.exchange.checkpoint import write_checkpoint
from orchestrator.train.exchange.huggingface import Wish, export_model
from orchestrator.train.models.build import build_model
from orchestrator.train.models.tensors import kind_of, own_tensors
from orchestrator.train.start import vocab_size
from tests.fakes.memory_source import MemorySource
from tests.fakes.small_models import KINDS, LM, MIXTRAL, PICTURES, TABULAR, draw_inputs, model_config
from tests.fakes.small_runs import GPT2, LLAMA, RESNET, VOCAB, SmallManifest
SMALL_GPT2 = {"transformers": GPT2 | {"tie_word_embeddings": True}}
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
TEXTS = {"name": "text_classification", "classes": 3, "seq_len": 12}
OF_TRANSFORMERS = {
    "llama": ({"transformers": LLAMA}, LM),
    "gpt2, tied": (SMALL_GPT2, LM),
    "bert": ({"transformers": BERT}, TEXTS),
    "mixtral": ({"transformers": MIXTRAL}, LM),
    "resnet": ({"transformers": RESNET}, PICTURES),
}
AS_TRAINED = Wish(dtype=None, shard_bytes=2**30)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A run's own, as prepare trains it."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    words = {"<|endoftext|>": 0, **{f"w{number}": number for number in range(1, VOCAB)}}
    made = Tokenizer(WordLevel(words, unk_token="w1"))
    made.pre_tokenizer = WhitespaceSplit()
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(path))
    return TokenizerInfo(path=str(path), id="of-words", vocab_size=VOCAB, end_id=0, token_bytes=2)


def fill(config) -> nn.Module:
    """The run's model with values of its own, and its computing precision."""
    torch.manual_seed(3)
    model = build_model(config, VOCAB if config.reads_tokens else None)
    with torch.no_grad():
        for _, tensor in own_tensors(model):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) * 0.4 - 0.2 + (tensor.ndim == 1))
    return model.eval()


def save(model: nn.Module, folder, dtype: str = "float32"):
    infos = {}
    for name, tensor in own_tensors(model):
        floating = isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
        infos[name] = TensorInfo(tuple(tensor.shape), dtype if floating else dtype_name(tensor.dtype), kind_of(tensor))
    facts = CheckpointFacts(zero_stage=2, config_hash="c0ffee", chain=("one",))
    path = write_checkpoint(folder, MemorySource.of_module(model), infos, facts, step=7, generation=1)
    return open_checkpoint(path)


def export(model, config, tokenizer, folder, wish=AS_TRAINED, dtype="float32"):
    out = folder / "out"
    out.mkdir()
    reader = save(model, folder / "checkpoints", dtype)
    told = export_model(config, tokenizer if config.reads_tokens else None, reader, out, wish)
    reader.close()
    return out, told


@pytest.mark.parametrize("kind", OF_TRANSFORMERS)
def test_from_pretrained_gives_the_same_logits(kind, tokenizer, tmp_path):
    config = model_config(*OF_TRANSFORMERS[kind])
    model = fill(config)
    out, told = export(model, config, tokenizer, tmp_path, Wish(dtype=None, shard_bytes=20_000))
    theirs = type(model).from_pretrained(out, dtype="auto")
    inputs, _ = draw_inputs(OF_TRANSFORMERS[kind][1], samples=4)
    if kind == "resnet":
        inputs = {"pixel_values": torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
    with torch.no_grad():
        assert torch.equal(theirs.eval()(**inputs).logits, model(**inputs).logits)
    index = json.loads((out / "model.safetensors.index.json").read_bytes())
    assert sum(path.stat().st_size > 0 for path in out.glob("model-*.safetensors")) > 2
    assert len(index["weight_map"]) == told.tensors


def test_a_file_is_as_transformers_itself_would_write_it(tokenizer, tmp_path):
    for kind in ("gpt2, tied", "mixtral"):
        folder = tmp_path / kind
        folder.mkdir()
        config = model_config(*OF_TRANSFORMERS[kind])
        model = fill(config)
        out, _ = export(model, config, tokenizer, folder)
        model.save_pretrained(folder / "theirs")
        ours, theirs = load_file(out / "model.safetensors"), load_file(folder / "theirs" / "model.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
