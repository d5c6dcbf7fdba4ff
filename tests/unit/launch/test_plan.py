"""`longhaul plan` of a task that is fed pictures: what it counts, and what it leaves out."""

import io
import json

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file

from launch.plan import show_plan
from launch.screen import Screen
from orchestrator.core.errors import ConfigError, DoesNotFit
from tests.fakes.pictures import FIELDS, write_pictures
from tests.fakes.small_runs import VIT

SHARDS = 24  # in segments of 16


@pytest.fixture
def config(tmp_path):
    """The file of a config; its pictures are not prepared."""
    write_pictures(tmp_path / "pictures", SHARDS, pictures=2)
    value = {
        "name": "pictures",
        "data": {
            "train": [{"path": str(tmp_path / "pictures")}],
            "work": str(tmp_path / "work"),
            "segment_shards": 16,
            "fields": FIELDS,
        },
        "task": {"name": "image_classification"},
        "model": {"transformers": VIT},
        "train": {"epochs": 3, "global_batch": 10, "precision": "fp32"},
        "deepspeed": {"zero_optimization": {"stage": 1}},
        "cluster": {"ranks_per_node": 2, "device": "cpu"},
    }
    path = tmp_path / "pictures.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def plan(config, *sets, nodes=None):
    """What people read."""
    screen = Screen(Console(file=io.StringIO(), width=80))
    show_plan(config, [], sets, nodes, False, screen)
    return " ".join(screen.console.file.getvalue().split())


def plan_for_machines(config, capsys, *sets, nodes=None):
    show_plan(config, [], sets, nodes, True, Screen(Console(file=io.StringIO())))
    return json.loads(capsys.readouterr().out)


def count_parameters():
    """Of the model, by transformers itself."""
    from transformers import ViTConfig, ViTForImageClassification

    return sum(p.numel() for p in ViTForImageClassification(ViTConfig(**VIT)).parameters())


def test_parameters_samples_and_lanes_are_told_and_nothing_of_tokens(config):
    told = plan(config)
    count = f"{count_parameters():,}"
    assert f"vit: {count} parameters, {count} trainable" in told
    assert "3 epochs in steps of 10 samples" in told
    assert "data.lanes: 2 in the first unit, 2 over a whole epoch" in told
    assert "token" not in told
    assert "FLOP" not in told


def test_a_length_in_steps_is_told_in_samples(config):
    assert " 1,234 steps of 10 samples" in plan(config, "train.epochs=null", "train.steps=1234")


def test_batch_and_state_of_each_world_are_those_of_the_model(config, capsys):
    found = plan_for_machines(config, capsys, nodes="1,4")
    parameters = found["parameters"]
    assert (found["format"], parameters) == (1, count_parameters())
    assert found["lanes"] == {"first_unit": 2, "epoch": 2}
    for world, size in zip(found["worlds"], (2, 8), strict=True):
        batch = world["batch"]
        assert batch["world_size"] == size
        assert batch["micro_batch"] * batch["accumulation"] * size >= 10
        whole, shared = (world["state_bytes_per_rank"][f"stage {stage}"]["device"] for stage in (0, 1))
        assert sum(whole.values()) == 16 * parameters  # values, gradients and two moments in fp32
        assert shared["optimizer"] == 8 * -(-parameters // size)


def test_a_plan_needs_no_data_and_prepares_none(config, tmp_path, capsys):
    assert plan_for_machines(config, capsys, f"data.train=[{{path: {tmp_path}/none}}]")["lanes"] is None
    told = plan(config, "data.train=[{path: s3://bucket/pictures}]")
    assert "the data is not here to count them" in told
    assert not (tmp_path / "work").exists()


def test_state_that_does_not_fit_is_shown_and_then_refused(config):
    with pytest.raises(DoesNotFit, match="ZeRO stage 1 on 2 rank"):
        plan(config, "cluster.device_memory_gb=1e-6")


def test_a_field_that_the_task_needs_and_the_config_lacks_is_named(config):
    with pytest.raises(ConfigError, match="label"):
        plan(config, "data.fields.label=null", "data.fields.image={members: [png]}")


# ---- what a plan says of layers and weights ----

NO_NORM = ("model.transformers=null", "task.classes=3", "model.cnn={norm: none, blocks: [{channels: 4}]}")
CONVOLUTION = {"blocks.0.0.weight": torch.ones(4, 3, 3, 3), "blocks.0.0.bias": torch.ones(4)}
HEAD = {"output.weight": torch.ones(3, 4), "output.bias": torch.ones(3)}


def test_layers_that_are_not_exact_on_another_world_are_named(config, capsys):
    normed = (*NO_NORM[:2], "model.cnn={norm: batch, blocks: [{channels: 4}]}")
    assert "BatchNorm2d in blocks.0.1: " in plan(config, *normed)
    (line,) = plan_for_machines(config, capsys, *normed)["inexact"]
    assert "GroupNorm is exact" in line
    assert plan_for_machines(config, capsys, *NO_NORM)["inexact"] == []


def test_tensors_that_weights_do_not_bring_are_named_and_changed_files_are_read_again(config, tmp_path):
    (tmp_path / "work").mkdir()  # descriptions are kept there
    file = tmp_path / "weights.safetensors"
    sets = (*NO_NORM, f"model.weights={file}", "model.new_head=true")
    save_file(CONVOLUTION, file)
    told = "begin anew, since the weights do not bring them: output.weight, output.bias"
    assert told in plan(config, *sets)
    assert told in plan(config, *sets)
    save_file(CONVOLUTION | HEAD, file)
    assert "begin anew" not in plan(config, *sets)


def test_the_description_of_a_users_module_is_not_kept(config, tmp_path):
    (tmp_path / "work").mkdir()
    plan(config, "model.transformers=null", "model.custom.build=torch.nn.Identity")
    assert not (tmp_path / "work" / "models").exists()
