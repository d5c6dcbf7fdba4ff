"""Models that leave: what others load is what was trained."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.checkpoint.fragments import TensorInfo
from orchestrator.checkpoint.layout import CheckpointFacts, dtype_name
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.checkpoint.shelf import LocalShelf
from orchestrator.data.shards.chain import TokenizerInfo
from orchestrator.train.exchange.checkpoint import write_checkpoint
from orchestrator.train.exchange.huggingface import Wish, export_model
from orchestrator.train.models.build import build_model
from orchestrator.train.models.initial import initial_source
from orchestrator.train.models.tensors import kind_of, own_tensors
from tests.fakes.memory_source import MemorySource
from tests.fakes.small_models import KINDS, LM, MIXTRAL, PICTURES, TABULAR, draw_inputs, model_config
from tests.fakes.small_runs import GPT2, LLAMA, RESNET, VOCAB

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


def reads_tokens(config) -> bool:
    return config.task.name in ("causal_lm", "text_classification")


def fill(config) -> nn.Module:
    """The run's model with values of its own, and its computing precision."""
    torch.manual_seed(3)
    model = build_model(config, VOCAB if reads_tokens(config) else None)
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
    path = write_checkpoint(LocalShelf(folder), MemorySource.of_module(model), infos, facts, step=7, generation=1)
    return open_checkpoint(path)


def export(model, config, tokenizer, folder, wish=AS_TRAINED, dtype="float32"):
    out = folder / "out"
    out.mkdir()
    reader = save(model, folder / "checkpoints", dtype)
    told = export_model(config, tokenizer if reads_tokens(config) else None, reader, out, wish)
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
    assert sum(path.stat().st_size > 0 for path in out.glob("model-*.safetensors")) > 1
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


def test_values_are_cast_where_that_is_asked_for_and_the_config_says_so(tokenizer, tmp_path):
    config = model_config(*OF_TRANSFORMERS["llama"])
    model = fill(config)
    for wish, trained, expected in (("bf16", "float32", torch.bfloat16), (None, "bfloat16", torch.bfloat16)):
        folder = tmp_path / str(wish)
        folder.mkdir()
        train = config.train.model_copy(update={"precision": "fp32" if wish else "bf16"})
        config = config.model_copy(update={"train": train})
        out, told = export(model, config, tokenizer, folder, Wish(dtype=wish, shard_bytes=2**30), trained)
        tensors = load_file(out / "model.safetensors")
        name = "model.layers.0.mlp.up_proj.weight"
        assert {tensor.dtype for tensor in tensors.values()} == {expected}
        assert torch.equal(tensors[name], model.get_parameter(name).to(expected))
        assert json.loads((out / "config.json").read_bytes())["dtype"] == told.dtype == "bfloat16"


def test_the_directory_says_what_texts_end_with_and_brings_the_tokenizer(tokenizer, tmp_path):
    config = model_config(*OF_TRANSFORMERS["llama"])
    model = fill(config)
    out, _ = export(model, config, tokenizer, tmp_path)
    words = AutoTokenizer.from_pretrained(out)
    assert words("w5 w7<|endoftext|>")["input_ids"] == [5, 7, 0]
    assert words.eos_token_id == 0
    theirs = type(model).from_pretrained(out)
    assert (theirs.config.eos_token_id, theirs.generation_config.eos_token_id, theirs.config.use_cache) == (0, 0, True)
    written = theirs.generate(torch.tensor([[5, 7]]), max_new_tokens=4, do_sample=False)
    assert written.shape[1] > 2


@pytest.mark.parametrize("kind", ["llama", "gpt2, tied"])
def test_adapters_leave_inside_the_weights(kind, tokenizer, tmp_path):
    section, task = OF_TRANSFORMERS[kind]
    config = model_config(section | {"lora": {"rank": 3, "alpha": 7.0}}, task)
    model = fill(config)
    out, _ = export(model, config, tokenizer, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(out)
    inputs, _ = draw_inputs(task, samples=4)
    with torch.no_grad():
        adapted, plain = model(**inputs).logits, theirs.eval()(**inputs).logits
        assert torch.allclose(plain, adapted, atol=1e-4)
    assert not [name for name in load_file(out / "model.safetensors") if "lora" in name or "base_layer" in name]


@pytest.mark.parametrize("kind", ["mlp", "cnn", "lstm", "wide"])
def test_other_models_leave_as_tensors_that_a_run_can_begin_with(kind, tokenizer, tmp_path):
    section, task = ({"mlp": {"hidden": [1_100, 1_100]}}, TABULAR) if kind == "wide" else KINDS[kind]
    config = model_config(section, task)
    model = fill(config)
    out, _ = export(model, config, tokenizer, tmp_path)
    again = initial_source(model_config(section | {"weights": str(out)}, task), VOCAB)
    for name, tensor in own_tensors(model):
        assert torch.equal(again.read(name, again.states(name)[0], 0, tensor.numel()), tensor.detach().flatten())
    assert type(model).__name__ in (out / "README.md").read_text()


@pytest.mark.parametrize("kind", ["llama", "gpt2, tied", "resnet", "mixtral"])
def test_a_run_can_begin_with_what_another_exported(kind, tokenizer, tmp_path):
    section, task = OF_TRANSFORMERS[kind]
    config = model_config(section, task)
    model = fill(config)
    out, _ = export(model, config, tokenizer, tmp_path, Wish(dtype=None, shard_bytes=20_000))
    again = initial_source(model_config({"pretrained": str(out)}, task), VOCAB if reads_tokens(config) else None)
    for name, tensor in own_tensors(model):
        values = again.read(name, again.states(name)[0], 1, max(0, tensor.numel() - 1))
        assert torch.equal(values, tensor.detach().flatten()[1:])
