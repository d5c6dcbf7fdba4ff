"""Checkpoints of DeepSpeed itself become Longhaul's, and training goes on as if nothing had been."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from orchestrator.checkpoint.found import verify
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.core.errors import BadInput, DataError
from orchestrator.train.exchange.deepspeed import open_deepspeed
from tests.fakes.bare_deepspeed import SAVED_AT, WORLD, config_of, go_on, take_all, tiny, train_bare
from tests.fakes.gang import run_gang
from tests.fakes.tiny_model import build_tiny

QUICK = {"stage 0": 3, "stage 2": 2, "stage 3": 1}  # what was saved, and the stage that goes on; others: the drill


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> tuple[Path, dict[str, list[float]]]:
    folder = tmp_path_factory.mktemp("bare")
    return folder, run_gang(WORLD, train_bare, folder, list(QUICK))[0]


@pytest.fixture(scope="module")
def taken(bare, tmp_path_factory) -> dict[str, Path]:
    return take_all(bare[0], list(QUICK), tmp_path_factory.mktemp("taken"))


def test_training_goes_on_as_deepspeed_itself_does(bare, taken):
    goals = [(taken[kind], tiny(stage)) for kind, stage in QUICK.items()]
    for kind, losses in zip(QUICK, run_gang(WORLD, go_on, goals)[0], strict=True):
        assert losses == pytest.approx(bare[1][kind][SAVED_AT:], abs=1e-5), kind


def test_what_is_taken_in_is_a_sound_checkpoint_of_that_step(taken):
    for path in taken.values():
        assert verify(path) == []
        reader = open_checkpoint(path)
        assert reader.step == SAVED_AT
        [(key, steps)] = reader.scalars("model.norm.weight").items()
        assert (key, steps - SAVED_AT in (0.0, 1.0)) == ("step", True)  # DeepSpeed may step once before the first
        kinds = {name: info.kind for name, info in reader.tensors.items()}
        assert (kinds["model.layers.0.mlp.up_proj.weight"], kinds["seen"]) == ("frozen", "buffer")
        reader.close()


def test_settings_of_the_optimizer_that_change_are_told(bare):
    other = config_of("stage 2").model_copy(update={"optim": tiny(2).optim.model_copy(update={"betas": (0.9, 0.99)})})
    assert open_deepspeed(bare[0] / "stage 2", config_of("stage 2"), None).differences == ()
    [told] = open_deepspeed(bare[0] / "stage 2", other, None).differences
    assert told == "optim: betas was (0.9, 0.95), is (0.9, 0.99) now"


def test_the_folder_above_with_latest_will_do(bare):
    assert (bare[0] / "latest").read_text() == list(QUICK)[-1]
    assert open_deepspeed(bare[0], config_of("stage 3"), None).state.step == SAVED_AT


def build_wider() -> torch.nn.Module:
    model = build_tiny()
    model.lm_head = torch.nn.Linear(32, 101, bias=True)
    return model


@pytest.mark.parametrize("kind", QUICK)
def test_another_model_or_optimizer_is_refused_by_name(bare, kind):
    with pytest.raises(DataError, match=r"tensors do not fit: lm_head\.(.|\n)*correct the model section"):
        open_deepspeed(bare[0] / kind, tiny(build="tests.unit.train.test_deepspeed_in.build_wider"), None)
    other = tiny().model_copy(update={"optim": tiny().optim.model_copy(update={"name": "adagrad"})})
    with pytest.raises(DataError, match=r"keeps sum of each parameter(.|\n)*optim\.name"):
        open_deepspeed(bare[0] / kind, other, None)


def test_a_run_that_would_be_over_already_is_refused(bare):
    short = config_of("stage 2")
    short = short.model_copy(update={"train": short.train.model_copy(update={"steps": SAVED_AT})})
    with pytest.raises(BadInput, match=r"3 steps are done already(.|\n)*train\.steps"):
        open_deepspeed(bare[0] / "stage 2", short, None)


def test_names_may_have_the_prefix_of_a_wrapper(bare, tmp_path):
    file = "mp_rank_00_model_states.pt"
    content = torch.load(bare[0] / "stage 0" / file, weights_only=True)
    content["module"] = {f"module.{name}": values for name, values in content["module"].items()}
    content["buffer_names"] = [f"module.{name}" for name in content["buffer_names"]]
    torch.save(content, tmp_path / file)
    wrapped = open_deepspeed(tmp_path, config_of("stage 0"), None).state
    plain = open_deepspeed(bare[0] / "stage 0", config_of("stage 0"), None).state
    assert wrapped.tensors == plain.tensors
    for name, info in plain.tensors.items():
        assert wrapped.states(name) == plain.states(name)
        for state in plain.states(name):
            assert torch.equal(wrapped.read(name, state, 0, info.numel), plain.read(name, state, 0, info.numel))


class Touch:
    """A pickle that would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_run(tmp_path):
    made = tmp_path / "made"
    torch.save({"module": {}, "global_steps": 1, "extra": Touch(made)}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(DataError, match=r"loading it would run posix.mkdir"):
        open_deepspeed(tmp_path, tiny(), None)
    assert not made.exists()
    (tmp_path / "mp_rank_00_model_states.pt").write_bytes(pickle.dumps(Touch(made)))
    with pytest.raises(DataError, match=r"is not read|cannot be read"):
        open_deepspeed(tmp_path, tiny(), None)
    assert not made.exists()


def test_what_is_not_there_or_cut_otherwise_is_refused(bare, tmp_path):
    with pytest.raises(DataError, match=r"no \*_model_states\.pt"):
        open_deepspeed(tmp_path, tiny(), None)
    for path in (bare[0] / "stage 2").iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(DataError, match=r"unknown way|do not fit"):
        open_deepspeed(tmp_path, config_of("stage 2"), None)
    (tmp_path / "zero_pp_rank_0_mp_rank_01_optim_states.pt").touch()
    with pytest.raises(DataError, match=r"model or expert parallelism"):
        open_deepspeed(tmp_path, config_of("stage 2"), None)
