"""W&B as a copy of metrics.jsonl: complete offline, one run online, harmless whatever it does."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.news import EvaluationNews, News, StepNews
from orchestrator.core.words import RunState
from orchestrator.tracking.rows import read_rows
from orchestrator.tracking.scribe import Scribe
from orchestrator.tracking.wandb import StepCopy, WandbMirror, open_wandb, read_run_id, run_config
from tests.fakes.dying import do_and_die, do_until_killed
from tests.fakes.wandb_server import FakeWandbServer, Manners


@pytest.fixture(autouse=True)
def leave_this_account_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)


Mode = Literal["online", "offline", "off"]


def make_config(mode: Mode) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "r",
            "data": {"train": [{"path": "d"}]},
            "prepare": {"tokens": {"train_bpe": 300}},
            "model": {"transformers": {"model_type": "llama"}},
            "train": {"steps": 10, "global_batch": 4},
            "cluster": {"env": {"MY_TOKEN": "secret"}},
            "tracking": {"wandb": {"mode": mode}},
        }
    )


def make_scribe(
    run_dir: Path, mode: Literal["online", "offline", "off"], about: dict[str, Any] | None = None
) -> Scribe:
    return Scribe(run_dir, make_config(mode), about or {}, SystemClock(), open_wandb)


def step_news(step: int, generation: int = 1) -> StepNews:
    metrics: dict[str, float | int | bool] = {
        "loss": 10.0 * generation + step,
        "lr": 0.1,
        "grad_norm": 1.0,
        "tokens": 1000,
        "samples": 4,
        "step_s": 0.5,
        "data_wait_s": 0.1,
        "world_size": 2,
    }
    ledger: dict[str, str | int] = {"order_digest": "0", "set_digest": "0", "count": 4}
    return StepNews(step=step, generation=generation, metrics=metrics, ledger=ledger)


def validation_news(step: int, generation: int = 1) -> EvaluationNews:
    return EvaluationNews(
        step=step, generation=generation, split="validation", metrics={"loss": 2.0, "perplexity": 9.0}
    )


def notes(run_dir: Path) -> list[str]:
    return [row["text"] for row in read_rows(run_dir / "metrics.jsonl") if row.get("kind") == "note"]


def newest_offline_segment(run_dir: Path) -> Path:
    return max((run_dir / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)


def read_offline(run_dir: Path) -> list[dict[str, Any]]:
    """The records of the newest segment, as wandb's own tool shows them."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(newest_offline_segment(run_dir))]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in shown.stdout.splitlines()]


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def copied(*rows: dict[str, Any], first_step: int = 0) -> list[tuple[int, dict[str, Any]]]:
    logged: list[tuple[int, dict[str, Any]]] = []
    copy = StepCopy(lambda values, step: logged.append((step, values)), first_step)
    for row in rows:
        copy.take({"generation": 1} | row)
    copy.take_last_notes()
    return [(step, {k: v for k, v in values.items() if k != "world/generation"}) for step, values in logged]


def test_of_a_repeated_step_the_first_row_stays() -> None:
    rows = [{"step": 0, "loss": 1}, {"step": 1, "loss": 2}, {"step": 0, "loss": 3}, {"step": 2, "loss": 4}]
    assert copied(*rows) == [(0, {"train/loss": 1}), (1, {"train/loss": 2}), (2, {"train/loss": 4})]


def test_validation_shares_the_row_of_the_step_that_follows_it() -> None:
    evaluation = {"step": 1, "kind": "evaluation", "split": "validation", "loss": 5}
    rows = copied({"step": 0, "loss": 1}, evaluation, evaluation, {"step": 1, "loss": 2})
    assert rows == [(0, {"train/loss": 1}), (1, {"validation/loss": 5}), (1, {"train/loss": 2})]


def test_notes_go_with_the_next_row_and_never_twice_to_a_continued_run() -> None:
    def note(text: str) -> dict[str, Any]:
        return {"step": 0, "kind": "note", "text": text}

    rows = [note("old"), {"step": 0, "loss": 1}, note("a"), note("b"), {"step": 1, "loss": 2}, note("end")]
    assert copied(*rows, first_step=1) == [(1, {"train/loss": 2, "note": "a; b"}), (1, {"note": "end"})]


def test_throughput_and_known_names() -> None:
    row = {"loss": 1, "step_s": 0.5, "data_wait_s": 0.1, "tokens": 1000, "samples": 4, "world_size": 2, "grad_norm": 3}
    assert copied({"step": 0} | row)[0][1] == {
        "train/loss": 1,
        "train/grad_norm": 3,
        "train/tokens": 1000,
        "train/samples": 4,
        "time/step": 0.5,
        "time/data_wait": 0.1,
        "world/size": 2,
        "throughput/tokens_per_sec": 2000,
        "throughput/samples_per_sec": 8,
    }


def test_the_id_of_a_run_never_changes(tmp_path: Path) -> None:
    assert read_run_id(tmp_path) == read_run_id(tmp_path)


def test_environment_variables_are_not_sent() -> None:
    assert "secret" not in json.dumps(run_config(make_config("online"), {"chain": "abc"}))


def test_off_means_nothing_of_wandb(tmp_path: Path) -> None:
    scribe = make_scribe(tmp_path, "off")
    scribe.write([step_news(0)])
    scribe.finish(RunState.DONE, 0)
    assert not (tmp_path / "wandb").exists()


def test_an_offline_run_is_read_back_whole_by_wandb(tmp_path: Path) -> None:
    scribe = make_scribe(tmp_path, "offline", {"chain": "abc"})
    scribe.annotate("resized to 3 ranks")
    for step in range(5):
        scribe.write([step_news(step)])
    scribe.write([validation_news(5)])
    scribe.finish(RunState.DONE, 0)
    records = read_offline(tmp_path)
    (run,) = (record["run"] for record in records if record["type"] == "run")
    assert run["run_id"] == read_run_id(tmp_path)
    assert run["config"]["update"]["train"] | {"steps": 10, "global_batch": 4} == run["config"]["update"]["train"]
    assert run["config"]["update"]["longhaul"] == {"chain": "abc"}
    rows = history(records)
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["train/loss"] for row in rows[:5]] == [10, 11, 12, 13, 14]
    assert rows[0]["note"] == "resized to 3 ranks"
    assert rows[5]["validation/perplexity"] == 9
    assert records[-1]["exit"]["exit_code"] == 0


def test_online_there_is_one_run_over_all_scribes_and_no_step_twice(tmp_path: Path, monkeypatch: Any) -> None:
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for generation, steps in ((1, range(5)), (2, range(3, 8))):
            scribe = make_scribe(tmp_path, "online", {"chain": "abc"})
            for step in steps:
                scribe.write([step_news(step, generation)])
            scribe.finish(RunState.STOPPED, 130)
    assert [(row["_step"], row["train/loss"]) for row in server.rows] == [
        (0, 10), (1, 11), (2, 12), (3, 13), (4, 14), (5, 25), (6, 26), (7, 27),
    ]  # fmt: skip
    assert server.configs[0]["longhaul"]["value"] == {"chain": "abc"}
    assert server.exit_codes == [130, 130]
    assert [note for note in notes(tmp_path) if "W&B" in note] == []


def test_what_was_written_while_wandb_was_down_is_sent_by_the_next_scribe(tmp_path: Path, monkeypatch: Any) -> None:
    earlier = make_scribe(tmp_path, "off")
    earlier.write([step_news(step) for step in range(4)])
    earlier.finish(RunState.STOPPED, 130)
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        scribe = make_scribe(tmp_path, "online")
        scribe.write([step_news(4)])
        scribe.finish(RunState.DONE, 0)
    assert [row["_step"] for row in server.rows] == [0, 1, 2, 3, 4]


def tell_twenty_steps(run_dir: Path) -> None:
    def open_impatiently(
        config: RunConfig, about: dict[str, Any], run_dir: Path, note: Callable[[str], None]
    ) -> WandbMirror:
        return WandbMirror(config, about, run_dir, note, ("online", "offline"), init_timeout_s=1, finish_timeout_s=3)

    scribe = Scribe(run_dir, make_config("online"), {}, SystemClock(), open_impatiently)
    begin = time.monotonic()
    for step in range(20):
        scribe.write([step_news(step)])
    assert time.monotonic() - begin < 2
    begin = time.monotonic()
    scribe.finish(RunState.DONE, 0)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("manners", ["garbage", "error", "panic", "silent"])
def test_a_bad_server_delays_no_write_and_the_run_is_there_offline(
    tmp_path: Path, monkeypatch: Any, manners: Manners
) -> None:
    with FakeWandbServer(manners) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        do_and_die(partial(tell_twenty_steps, tmp_path))  # in a process of its own: wandb leaks a core that panicked
    assert any("W&B online failed" in note for note in notes(tmp_path))
    assert [row["_step"] for row in history(read_offline(tmp_path))] == list(range(20))


def test_without_any_wandb_the_run_goes_on_and_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # cannot even be imported
    scribe = make_scribe(tmp_path, "offline")
    scribe.write([step_news(0)])
    scribe.finish(RunState.DONE, 0)
    assert any("W&B offline failed" in note for note in notes(tmp_path))
    assert any("W&B is off" in note for note in notes(tmp_path))


def tell_steps(run_dir: Path, first: int) -> None:
    scribe = make_scribe(run_dir, "offline")
    for step in range(first, 1_000_000):
        scribe.write([step_news(step)])
        time.sleep(0.01)


def test_after_a_killed_scribe_the_next_segment_has_the_whole_run(tmp_path: Path) -> None:
    do_until_killed(partial(tell_steps, tmp_path, 0), after_s=1.5)
    written = [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")]
    scribe = make_scribe(tmp_path, "offline")
    news: list[News] = [step_news(written[-1]), step_news(written[-1] + 1)]
    scribe.write(news)
    scribe.finish(RunState.DONE, 0)
    assert [row["_step"] for row in history(read_offline(tmp_path))] == [*written, written[-1] + 1]
