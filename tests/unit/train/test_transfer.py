"""Models that begin with weights of others: a new head, frozen parts, adapters, attention."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from orchestrator.config.model import LoraSection
from orchestrator.core.errors import ConfigError, DataError
from orchestrator.train.models.build import build_model, describe_model
from orchestrator.train.models.initial import InitialWeights, initial_source
from orchestrator.train.models.tensors import own_tensors
from orchestrator.train.models.transformers import read_model_config
from tests.fakes.small_models import CNN, KINDS, LM, PICTURES, TABULAR, draw_inputs, model_config
from tests.fakes.small_runs import GPT2, LLAMA, RESNET, VOCAB

TEXTS = {"name": "text_classification", "classes": 3, "seq_len": 12}
MLP = KINDS["mlp"][0]


def read_all(config) -> dict[str, torch.Tensor]:
    source = initial_source(config, VOCAB)
    model = build_model(config, VOCAB)
    return {
        name: source.read(name, source.states(name)[0], 0, tensor.numel()).clone().view(tensor.shape)
        for name, tensor in own_tensors(model)
    }


def build_filled(config) -> torch.nn.Module:
    model = build_model(config, VOCAB)
    with torch.no_grad():
        for name, values in read_all(config).items():
            model.get_parameter(name).copy_(values)
    return model.eval()


def save_random(config, path: Path, change=lambda tensors: tensors) -> dict[str, torch.Tensor]:
    """Other values for all tensors of the model, in a file."""
    draw = torch.Generator().manual_seed(8)
    model = build_model(config, VOCAB)
    tensors = {name: torch.rand(tensor.shape, generator=draw) for name, tensor in own_tensors(model)}
    save_file(change(dict(tensors)), path)
    return tensors


# ---- weights and head ----


def test_weights_of_any_module_are_read_by_name_from_a_file_or_a_folder(tmp_path):
    saved = save_random(model_config(MLP, TABULAR), tmp_path / "mine.safetensors")
    for path in (tmp_path / "mine.safetensors", tmp_path):
        read = read_all(model_config(MLP | {"weights": str(path)}, TABULAR))
        assert all(torch.equal(read[name], values) for name, values in saved.items())


def test_a_new_head_begins_anew_and_the_rest_as_stored(tmp_path):
    path = tmp_path / "mine.safetensors"
    saved = save_random(model_config(MLP, TABULAR), path)
    fewer = TABULAR | {"classes": 2}
    with pytest.raises(
        DataError, match=r"2 of 6 tensors(.|\n)*output.weight has shape \(3, 9\)(.|\n)*model.new_head=true"
    ):
        describe_model(model_config(MLP | {"weights": str(path)}, fewer), None, begins=True)
    config = model_config(MLP | {"weights": str(path), "new_head": True}, fewer)
    assert describe_model(config, None, begins=True).begins_anew == ("output.weight", "output.bias")
    read, fresh = read_all(config), InitialWeights(model_config(MLP, fewer), None)
    assert torch.equal(read["layers.1.weight"], saved["layers.1.weight"])
    assert torch.equal(read["output.weight"].flatten(), fresh.read("output.weight", "fp32", 0, 18))


def test_only_a_run_that_begins_needs_its_weights(tmp_path):
    config = model_config(MLP | {"weights": str(tmp_path)}, TABULAR)
    assert describe_model(config, None).begins_anew == ()
    with pytest.raises(DataError, match=r"model\.weights .*: there is no safetensors file"):
        describe_model(config, None, begins=True)


def test_weights_of_another_model_are_refused_even_with_a_new_head(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_random(model_config(MLP, TABULAR), path)
    with pytest.raises(DataError, match=r"do not come from there(.|\n)*they hold layers\.0\.bias"):
        initial_source(
            model_config({"cnn": CNN, "weights": str(path), "new_head": True}, PICTURES | {"classes": 4}), None
        )


def test_a_trained_language_model_becomes_a_text_classifier(tmp_path):
    trained = AutoModelForCausalLM.from_config(read_model_config(model_config({"transformers": LLAMA}, LM), VOCAB))
    trained.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"score.weight is not there(.|\n)*model.new_head"):
        describe_model(model_config({"pretrained": str(tmp_path)}, TEXTS), VOCAB, begins=True)
    config = model_config({"pretrained": str(tmp_path), "new_head": True}, TEXTS)
    assert describe_model(config, VOCAB, begins=True).begins_anew == ("score.weight",)
    read, stored = read_all(config), trained.state_dict()
    assert read["score.weight"].shape == (3, 32)
    assert torch.equal(read["model.layers.1.mlp.up_proj.weight"], stored["model.layers.1.mlp.up_proj.weight"])


def test_classes_of_the_task_are_those_of_an_image_classifier():
    keys = {key: value for key, value in RESNET.items() if key != "num_labels"}
    description = describe_model(model_config({"transformers": keys}, PICTURES | {"classes": 7}), None)
    assert {t.shape[0] for t in description.tensors if t.name.startswith("classifier")} == {7}


# ---- frozen ----


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["layer.0.*"], ["'layer.0.*' matches no parameter", "layers.0"]),
        (["layers.*", "output.*"], ["all 6 parameters are frozen"]),
    ],
)
def test_patterns_that_freeze_nothing_or_everything_are_refused(patterns, said):
    with pytest.raises(ConfigError) as caught:
        build_model(model_config(MLP | {"freeze": patterns}, TABULAR), None)
    assert all(words in str(caught.value) for words in ["model.freeze", *said])


def test_what_is_frozen_is_described_and_a_tied_name_counts():
    description = describe_model(model_config({"transformers": GPT2, "freeze": ["lm_head.*", "*.h.0.*"]}, LM), VOCAB)
    frozen = {t.name for t in description.tensors if t.kind == "frozen"}
    assert "transformer.wte.weight" in frozen
    assert {name for name in frozen if ".h." in name} == {t.name for t in description.tensors if ".h.0." in t.name}


def test_a_frozen_batch_norm_is_used_as_in_an_evaluation():
    normed = {"custom": {"build": "tests.fakes.small_models.WithBatchNorm", "args": {"inputs": 5, "outputs": 3}}}
    config = model_config(normed | {"freeze": ["first.*"]}, TABULAR)
    model = build_model(config, None).train()
    rows = draw_inputs(TABULAR, 4)[0]["features"]
    in_training = model.first(rows)
    assert torch.equal(in_training, model.eval().first(rows))
    assert [line.split(":")[0] for line in describe_model(config, None).inexact] == ["BatchNorm1d in second.1"]


# ---- adapters ----


def with_sections(config, **keys):
    return config.model_copy(update={"model": config.model.model_copy(update=keys)})


@pytest.mark.parametrize(("base", "modules"), [(LLAMA, 7), (GPT2, 4)], ids=["llama", "gpt2"])
def test_adapters_begin_without_a_say_and_the_base_as_stored(tmp_path, base, modules):
    path = tmp_path / "base.safetensors"
    plain = model_config({"transformers": base}, LM)
    saved = save_random(plain, path)
    stored = with_sections(plain, weights=str(path))
    config = with_sections(stored, lora=LoraSection(rank=3))
    description, read = describe_model(config, VOCAB), read_all(config)
    adapters = {t.name for t in description.tensors if ".lora_" in t.name}
    assert {t.name for t in description.tensors if t.kind == "trainable"} == adapters
    assert len(adapters) == 2 * modules * 2
    assert all(torch.equal(read[name], saved[name.replace(".base_layer", "")]) for name in read.keys() - adapters)
    assert all(read[name].any() == (".lora_A." in name) for name in adapters)
    tokens = draw_inputs(LM, 2)[0]["input_ids"]
    logits = [build_filled(one)(input_ids=tokens).logits for one in (stored, config)]
    assert torch.allclose(*logits, atol=1e-5)


@pytest.mark.parametrize("new_head", [False, True])
def test_a_new_head_learns_beside_adapters(tmp_path, new_head):
    plain = model_config({"transformers": LLAMA}, TEXTS)
    save_random(plain, tmp_path / "base.safetensors")
    config = with_sections(
        plain, weights=str(tmp_path), new_head=new_head, lora=LoraSection(targets=["q_proj", "v_proj"])
    )
    learning = {t.name for t in describe_model(config, VOCAB).tensors if t.kind == "trainable"}
    assert {name.split(".")[4] for name in learning if ".lora_" in name} == {"q_proj", "v_proj"}
    assert ("score.weight" in learning) is new_head


def test_adapters_beside_models_of_our_own(tmp_path):
    save_random(model_config(MLP, TABULAR), tmp_path / "base.safetensors")
    config = model_config(MLP | {"weights": str(tmp_path), "lora": {}}, TABULAR)
    learning = [t.name for t in describe_model(config, None).tensors if t.kind == "trainable"]
    assert learning == [f"layers.{i}.lora_{one}.default.weight" for i in range(2) for one in "AB"]


@pytest.mark.parametrize(
    ("targets", "said"),
    [(["q_pro"], ["'q_pro'", "did you mean 'q_proj'", "down_proj"]), (["input_layernorm"], ["LlamaRMSNorm", "linear"])],
)
def test_targets_that_cannot_have_adapters_are_named(tmp_path, targets, said):
    plain = model_config({"transformers": LLAMA}, LM)
    config = with_sections(plain, weights=str(tmp_path), lora=LoraSection(targets=targets))
    with pytest.raises(ConfigError) as caught:
        build_model(config, VOCAB)
    assert all(words in str(caught.value) for words in ["model.lora.targets", *said])


# ---- attention ----


def test_attention_is_that_of_the_config():
    tokens = draw_inputs(LM, 2)[0]["input_ids"]
    logits = []
    for attention in ("sdpa", "eager"):
        model = build_filled(model_config({"transformers": LLAMA, "attention": attention}, LM))
        assert model.config._attn_implementation == attention
        logits.append(model(input_ids=tokens).logits)
    assert torch.allclose(*logits, atol=1e-5)


def test_flash_attention_is_refused_where_it_is_not_installed():
    with pytest.raises(ConfigError, match=r"model\.attention: (.|\n)*flash-attn(.|\n)*sdpa"):
        build_model(model_config({"transformers": LLAMA, "attention": "flash_attention_2"}, LM), VOCAB)
