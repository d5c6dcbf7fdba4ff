"""Cross-validation through the command line: two runs that end early, and the command once more."""

import json

import pytest

from tests.integration.conftest import Bench

pytestmark = [pytest.mark.cluster, pytest.mark.long]
SETS = (
    "name=folds",
    "data.split.validation=0",
    "evaluate.every_steps=2",
    "evaluate.early_stop={patience: 2, min_delta: 100}",
    "checkpoint.keep={last: 1, best: 1}",
)


def test_folds_are_run_once_and_summed_up(bench: Bench) -> None:
    command = ("run", str(bench.config), *SETS, "--folds", "2", "--json")
    first = bench.longhaul(*command, timeout_s=400.0)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert [fold["run"] for fold in told["folds"]] == ["folds-fold0", "folds-fold1"]
    losses = [fold["metrics"]["loss"] for fold in told["folds"]]
    assert losses[0] != losses[1]
    assert told["mean"]["loss"] == pytest.approx(sum(losses) / 2)
    for fold in ("folds-fold0", "folds-fold1"):
        [done] = bench.events(fold, "done")
        assert (done["exit_code"], done["step"]) == (0, 6)
        assert done["reason"].startswith("stopped early: 2 validations brought no better loss")
        assert bench.longhaul("verify", fold).returncode == 0
    again = bench.longhaul(*command)
    assert again.stdout == first.stdout
    assert [len(bench.events(fold, "claimed")) for fold in ("folds-fold0", "folds-fold1")] == [1, 1]
    status = json.loads(bench.longhaul("status", "folds-fold0", "--json").stdout)
    assert (status["state"], status["step"], status["exit_code"]) == ("done", 6, 0)
    assert "stopped early" in status["reason"]
    other = bench.longhaul(*command, "optim.lr=0.5")
    assert other.returncode == 2
    assert "optim.lr: makes another run of it" in other.stderr
