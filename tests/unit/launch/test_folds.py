"""Cross-validation: which runs it is made of, and what is told of them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from launch.folds import find_best, load_folds, run_folds, summarise
from launch.screen import Screen
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput, ConfigError
from orchestrator.core.words import ExitCode
from orchestrator.storage.lines import LineFile
from tests.fakes.small_runs import small_config

Measured = list[tuple[int, float, float]]  # step, loss, perplexity


@pytest.fixture
def config(tmp_path: Path) -> Path:
    value = small_config(evaluate={"every_steps": 2}).model_dump(mode="json", exclude_unset=True)
    value |= {"name": "cv", "root": str(tmp_path / "runs")}
    del value["data"]["split"]
    path = tmp_path / "cv.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def write_run(config: RunConfig, measured: Measured, generation: int = 1, first_step: int = 0) -> None:
    folder = Path(config.root) / config.name
    folder.mkdir(parents=True, exist_ok=True)
    with LineFile(folder / "metrics.jsonl", head={"format": 1}) as file:
        where: dict[str, Any] = {"generation": generation, "t": 1.0}
        file.append([where | {"step": first_step, "loss": 9.0}])
        for step, loss, perplexity in measured:
            metrics = {"loss": loss, "perplexity": perplexity, "tokens": 10}
            file.append([where | {"step": step, "kind": "evaluation", "split": "validation"} | metrics])


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO(), width=80))


def test_each_fold_is_a_run_of_its_own_on_another_part(config: Path) -> None:
    folds = load_folds(config, [], ["seed=3"], 3)
    assert [fold.name for fold in folds] == ["cv-fold0", "cv-fold1", "cv-fold2"]
    assert [(fold.data.split.folds, fold.data.split.fold) for fold in folds] == [(3, 0), (3, 1), (3, 2)]
    assert {(fold.seed, fold.tracking.wandb.group) for fold in folds} == {(3, "cv")}


def test_folds_beside_a_share_for_validation_are_refused(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"folds takes the place of validation, which is 0\.1"):
        load_folds(config, [], ["data.split.validation=0.1"], 3)


def test_folds_without_validations_are_refused(config: Path) -> None:
    with pytest.raises(BadInput, match=r"evaluate\.every_steps"):
        load_folds(config, [], ["evaluate.every_steps=null"], 3)


def test_the_best_validation_is_by_the_metric_that_the_config_goes_by(config: Path) -> None:
    by_loss = load_folds(config, [], [], 2)[0]
    write_run(by_loss, [(2, 0.5, 0.9), (4, 0.3, 0.8), (6, 0.4, 0.7)])
    assert (find_best(by_loss).step, find_best(by_loss).metrics) == (4, {"loss": 0.3, "perplexity": 0.8})
    by_another = load_folds(config, [], ["evaluate.best_by=perplexity"], 2)[0]
    assert find_best(by_another).step == 6


def test_a_validation_that_the_run_went_back_behind_does_not_count(config: Path) -> None:
    fold = load_folds(config, [], [], 2)[0]
    write_run(fold, [(2, 0.5, 0.7), (4, 0.1, 0.9)])
    write_run(fold, [(4, 0.4, 0.8)], generation=2, first_step=2)
    assert find_best(fold).metrics["loss"] == 0.4


def test_mean_and_spread_are_those_of_the_folds(config: Path) -> None:
    folds = load_folds(config, [], [], 3)
    for fold, loss in zip(folds, (1.0, 2.0, 6.0), strict=True):
        write_run(fold, [(2, loss, 0.5)])
    summary = summarise([find_best(fold) for fold in folds])
    assert summary["mean"] == {"loss": 3.0, "perplexity": 0.5}
    assert summary["spread"] == {"loss": pytest.approx(7**0.5), "perplexity": 0.0}


def test_the_outcome_is_told_to_programs_and_to_people(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def finish(fold: RunConfig, _screen: Screen, *, or_resume: bool) -> ExitCode:
        assert or_resume, "the command can be repeated"
        write_run(fold, [(2, 1.0 + fold.data.split.fold, 0.5)])
        return ExitCode.DONE

    screen = quiet()
    assert run_folds(config, [], [], 2, screen, as_json=True, begin=finish) is ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert [fold["run"] for fold in told["folds"]] == ["cv-fold0", "cv-fold1"]
    assert told["mean"]["loss"] == 1.5
    run_folds(config, [], [], 2, screen, as_json=False, begin=lambda *_, **__: ExitCode.DONE)
    text = " ".join(screen.console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "metric mean spread lowest highest loss 1.5 0.7071 1 2" in text


def test_a_fold_that_is_stopped_ends_the_command_with_its_exit_code(config: Path) -> None:
    begun: list[str] = []

    def stop(fold: RunConfig, _screen: Screen, *, or_resume: bool) -> ExitCode:
        begun.append(fold.name)
        return ExitCode.STOPPED

    assert run_folds(config, [], [], 3, quiet(), as_json=False, begin=stop) is ExitCode.STOPPED
    assert begun == ["cv-fold0"]
