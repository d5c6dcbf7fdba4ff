"""Longhaul's own models and a user's: what they take and give, how they begin, what is refused."""

import itertools
from functools import partial

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from orchestrator.config.model import CnnSection, MlpSection, RnnSection
from orchestrator.core.errors import ConfigError, TrainingFailed
from orchestrator.train.engine import build_empty
from orchestrator.train.models.build import build_model, describe_model
from orchestrator.train.models.cnn import Cnn
from orchestrator.train.models.initial import InitialWeights
from orchestrator.train.models.mlp import Mlp
from orchestrator.train.models.rnn import Rnn
from orchestrator.train.models.tensors import own_tensors
from tests.fakes.small_models import CLASSES, CNN, KINDS, LM, PICTURES, TABULAR, draw_inputs, model_config
from tests.fakes.small_runs import VOCAB, picture_config, small_config

CUSTOM = "tests.fakes.small_models"


def build_filled(config) -> nn.Module:
    source, model = InitialWeights(config, VOCAB), build_model(config, VOCAB)
    with torch.no_grad():
        for name, tensor in own_tensors(model):
            values = source.read(name, source.states(name)[0], 0, tensor.numel())
            tensor.copy_(values.view(tensor.shape))
    return model.eval()


@pytest.mark.parametrize("name", KINDS)
def test_every_model_gives_one_number_for_each_class(name):
    model, task = KINDS[name]
    inputs, _ = draw_inputs(task, 4)
    output = build_filled(model_config(model, task))(**inputs)
    logits = output if isinstance(output, torch.Tensor) else output.logits
    assert logits.shape == ((4, 12, VOCAB) if task == LM else (4, CLASSES))
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        (TABULAR, CLASSES),
        ({"name": "tabular_regression"}, 1),
        ({"name": "tabular_classification", "classes": 2, "loss": {"name": "binary_cross_entropy"}}, 1),
        ({"name": "tabular_classification", "classes": 2}, 2),
    ],
)
def test_outputs_follow_the_task_and_inputs_the_columns(task, outputs):
    shapes = {t.name: t.shape for t in describe_model(model_config({"linear": {}}, task), None).tensors}
    assert shapes == {"output.weight": (outputs, 5), "output.bias": (outputs,)}


def test_a_linear_model_is_one_matrix():
    model = build_filled(model_config({"linear": {"bias": False}}, TABULAR))
    inputs, _ = draw_inputs(TABULAR, 3)
    assert torch.equal(model(**inputs), inputs["features"] @ model.output.weight.T)


def test_pictures_are_rows_of_pixels_for_linear_and_mlp():
    model = build_filled(model_config({"mlp": {"hidden": [4], "inputs": 36}}, PICTURES))
    inputs, _ = draw_inputs(PICTURES, 3)
    assert torch.equal(model(**inputs), model(features=inputs["pixel_values"].flatten(1)))
    with pytest.raises(TrainingFailed, match="a sample has 49 numbers, the model takes 36"):
        model(pixel_values=torch.rand(2, 1, 7, 7))


@pytest.mark.parametrize(
    ("activation", "half"), [("relu", 0.5), ("gelu", 0.3457), ("silu", 0.3112), ("tanh", 0.4621), ("sigmoid", 0.6225)]
)
def test_an_mlp_has_the_activation_of_its_config(activation, half):
    model = Mlp(1, 1, MlpSection(hidden=[1], activation=activation))
    for parameter, value in zip(model.parameters(), (1.0, 0.0, 1.0, 0.0), strict=True):
        nn.init.constant_(parameter, value)
    assert model(features=torch.tensor([[0.5]])).item() == pytest.approx(half, abs=1e-4)


def test_dropout_takes_part_in_training_alone():
    model = Mlp(5, 2, MlpSection(hidden=[64], dropout=0.5))
    rows = torch.ones(1, 5)
    assert torch.equal(model.eval()(features=rows), model(features=rows))
    assert not torch.equal(model.train()(features=rows), model(features=rows))


def test_a_cnn_takes_pictures_of_any_size_and_steps_down_after_each_block():
    section = CnnSection.model_validate(CNN | {"groups": 5})
    model = Cnn(CLASSES, section)
    assert model.blocks(torch.rand(1, 1, 8, 8)).shape == (1, 12, 2, 2)
    assert all(model(torch.rand(2, 1, height, width)).shape == (2, CLASSES) for height, width in [(1, 1), (9, 5)])
    assert [m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)] == [4, 4, 4]  # 5 divide neither width


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_padding_behind_a_text_changes_nothing(kind):
    torch.manual_seed(1)
    model = Rnn(VOCAB, 3, RnnSection(kind=kind, embedding=8, hidden=9, layers=2), each_token=False)
    texts = [torch.randint(1, VOCAB, (length,)) for length in (5, 9, 1)]
    alone = torch.cat([model(input_ids=text[None]) for text in texts])
    padded = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=7)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
    assert torch.allclose(model(input_ids=padded, attention_mask=mask), alone, atol=1e-6)
    assert not torch.allclose(model(input_ids=padded), alone, atol=1e-3)


def test_a_recurrent_language_model_sees_no_later_token():
    model = build_filled(model_config(*KINDS["lstm"]))
    tokens = draw_inputs(LM, 2)[0]["input_ids"]
    changed = tokens.clone()
    changed[:, 7:] += 1
    before, after = model(input_ids=tokens), model(input_ids=changed % VOCAB)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7], after[:, 7])


def test_a_recurrent_model_built_empty_computes_with_the_parameters_that_are_filled():
    config = model_config(*KINDS["lstm"])
    model = build_empty(partial(build_model, config, VOCAB), config, "cpu")
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert not model(**draw_inputs(LM, 2)[0]).any()


# ---- how they begin ----


@pytest.mark.parametrize("name", ["lstm", "cnn"])
def test_weights_begin_as_torch_begins_them(name):
    config = model_config(*KINDS[name])
    made, theirs = build_filled(config), build_model(config, VOCAB)
    for (tensor, ours), other in zip(made.named_parameters(), theirs.parameters(), strict=True):
        if other.numel() > 100:
            assert ours.std().item() == pytest.approx(other.std().item(), rel=0.2), tensor
        elif other.std() == 0:
            assert torch.equal(ours, other), tensor


def test_initial_values_of_any_module_do_not_depend_on_slicing_order_or_random_state():
    config = model_config(
        {"custom": {"build": f"{CUSTOM}:WithBatchNorm", "args": {"inputs": 5, "outputs": 3}}}, TABULAR
    )
    source = InitialWeights(config, None)
    whole = {
        name: source.read(name, source.states(name)[0], 0, t.numel()).clone() for name, t in own_tensors(source.model)
    }
    assert whole["scale"].tolist() == [2.0] * 3
    assert whole["first.1.running_var"].tolist() == [1.0] * 6
    assert whole["first.1.num_batches_tracked"].tolist() == [0]
    torch.manual_seed(99)
    other = InitialWeights(config, None)
    for name, values in reversed(whole.items()):
        cuts = sorted({0, values.numel() // 3, values.numel()})
        parts = [other.read(name, other.states(name)[0], a, b - a).clone() for a, b in itertools.pairwise(cuts)]
        assert torch.equal(torch.cat(parts), values), name
    seeded = InitialWeights(config.model_copy(update={"seed": 6}), None)
    assert not torch.equal(seeded.read("constant", "value", 0, 4), whole["constant"])


def test_a_parameter_that_nobody_sets_is_named_with_the_way_out():
    config = model_config({"custom": {"build": f"{CUSTOM}.WithoutReset"}}, TABULAR)
    source = InitialWeights(config, None)
    with pytest.raises(ConfigError, match=r"token no initial value(.|\n)*reset_parameters(.|\n)*model\.weights"):
        source.read("token", "fp32", 0, 3)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("build", "args", "said"),
    [
        ("tests.fakes.small_models:NoSuchModel", {}, "NoSuchModel"),
        (f"{CUSTOM}.WithBatchNorm", {"input": 5}, "unexpected keyword argument 'input'"),
        (f"{CUSTOM}.draw_inputs", {"task": TABULAR, "samples": 1}, "gave a tuple, not a torch module"),
    ],
)
def test_a_users_module_that_cannot_be_built_is_named(build, args, said):
    config = model_config({"custom": {"build": build, "args": args}}, TABULAR)
    with pytest.raises(ConfigError, match=r"model\.custom") as caught:
        build_model(config, None)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("task", "model", "said"),
    [
        ({}, {"cnn": CNN}, ["model.cnn", "causal_lm", "rnn"]),
        ({}, {"mlp": {"hidden": [3]}}, ["model.mlp", "causal_lm"]),
        ({"documents_apart": True}, {"rnn": {}}, ["task.documents_apart"]),
        (PICTURES, {"rnn": {}}, ["model.rnn", "image_classification", "cnn"]),
        (PICTURES, {"mlp": {"hidden": [3]}}, ["model.mlp.inputs", "height x width x channels"]),
        ({"name": "image_classification"}, {"cnn": CNN}, ["task.classes", "model.cnn"]),
        (PICTURES, {"cnn": CNN, "new_head": True}, ["model.new_head"]),
        (PICTURES, {"cnn": CNN, "lora": {}}, ["model.lora", "model.weights"]),
        (PICTURES, {"cnn": CNN, "attention": "eager"}, ["model.attention", "model.cnn"]),
        ({}, {"attention": "flash_attention_2"}, ["model.attention", "CUDA", "sdpa"]),
        ({"documents_apart": True}, {"attention": "flash_attention_2"}, ["micro batches of one"]),
    ],
)
def test_models_that_cannot_do_the_task_are_refused_with_the_config(task, model, said):
    make = picture_config if task.get("name") == "image_classification" else small_config
    valid = make().model_dump(mode="json", exclude_unset=True)
    kind = {} if "attention" in model and len(model) == 1 else {"transformers": None}
    with pytest.raises(ValidationError) as caught:
        type(make()).model_validate(valid | {"task": task, "model": valid["model"] | kind | model})
    assert all(words in str(caught.value) for words in said)
