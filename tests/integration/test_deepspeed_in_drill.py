"""Every way in which DeepSpeed keeps its state is taken in; the quick part is tests/unit/train/test_deepspeed_in.py."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.checkpoint.reader import open_checkpoint
from tests.fakes.bare_deepspeed import (
    KEYS,
    SAVED_AT,
    WORLD,
    config_of,
    go_on,
    save_llama,
    take_all,
    tiny,
    train_bare,
)
from tests.fakes.gang import run_gang
from tests.integration.conftest import STEPS, Bench, small_config

pytestmark = [pytest.mark.cluster, pytest.mark.long]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    losses = run_gang(WORLD, train_bare, folder, list(KEYS))[0]
    return losses, take_all(folder, list(KEYS), tmp_path_factory.mktemp("taken"))


def test_training_goes_on_as_deepspeed_itself_does(bare):
    losses, taken = bare
    goals = [(taken[kind], config_of(kind)) for kind in KEYS]
    for kind, found in zip(KEYS, run_gang(WORLD, go_on, goals)[0], strict=True):
        assert found == pytest.approx(losses[kind][SAVED_AT:], abs=1e-5), kind


def test_any_stage_goes_on_at_any_other_and_on_another_world(bare):
    losses, taken = bare
    goals = [(taken[f"stage {old}"], tiny(new)) for old in range(4) for new in range(4)]
    for found in run_gang(3, go_on, goals, deadline_s=300.0)[0]:
        assert found == pytest.approx(losses["stage 0"][SAVED_AT:], abs=1e-5)


def test_the_loss_scale_goes_on_where_it_was(bare):
    reader = open_checkpoint(bare[1]["stage 2, fp16"])
    scale = reader.engine()
    reader.close()
    assert 1.0 < scale["loss_scale"] <= 2.0**16  # where it begins, and from where it is halved
    assert scale["loss_scale_iteration"] == SAVED_AT


def test_one_rank_at_stage_3_has_parts_too(tmp_path):
    losses = run_gang(1, train_bare, tmp_path, ["stage 3"])[0]
    taken = take_all(tmp_path, ["stage 3"], tmp_path / "taken")
    [found] = run_gang(1, go_on, [(taken["stage 3"], tiny(1))])[0]
    assert found == pytest.approx(losses["stage 3"][SAVED_AT:], abs=1e-5)


def test_a_run_goes_on_with_it_to_the_end_and_leaves_as_a_directory(bench: Bench) -> None:
    """All by the command line: import, resume, verify, export; then what transformers makes of it."""
    keys = {key: value for key, value in small_config()["model"]["transformers"].items() if key != "model_type"}
    run_gang(WORLD, save_llama, bench.folder / "deepspeed", keys | {"vocab_size": 300})
    imported = bench.longhaul(
        "checkpoint", "import", "deepspeed", "--config", str(bench.config), "name=taken", "--json"
    )
    assert imported.returncode == 0, imported.stdout + imported.stderr
    assert json.loads(imported.stdout)["step"] == SAVED_AT
    again = bench.longhaul("checkpoint", "import", "deepspeed", "--config", str(bench.config), "name=taken")
    assert again.returncode == 2
    status = json.loads(bench.longhaul("status", "taken", "--json").stdout)
    assert (status["state"], status["step"]) == ("stopped", SAVED_AT)
    resumed = bench.longhaul("resume", "taken")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert sorted(bench.rows("taken")) == list(range(SAVED_AT, STEPS))
    proof = bench.longhaul("verify", "taken")
    assert proof.returncode == 0, proof.stdout + proof.stderr
    exported = bench.longhaul("export", "taken", "--json")
    assert exported.returncode == 0, exported.stdout + exported.stderr
    folder = json.loads(exported.stdout)["output"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    weights = bench.weights("taken")["model.embed_tokens.weight/fp32"]
    assert torch.equal(model.get_input_embeddings().weight.detach().flatten(), weights)
    tokens = tokenizer("the sea carries slow freight", return_tensors="pt").input_ids
    assert model(input_ids=tokens, labels=tokens).loss < 5.0  # of 5.7 for guessing
