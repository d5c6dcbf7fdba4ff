"""Every way in which DeepSpeed keeps its state is taken in; the quick part is tests/unit/train/test_deepspeed_in.py."""

import pytest

from tests.fakes.bare_deepspeed import KEYS, SAVED_AT, WORLD, config_of, go_on, take_all, tiny, train_bare
from tests.fakes.gang import run_gang

pytestmark = pytest.mark.cluster


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
