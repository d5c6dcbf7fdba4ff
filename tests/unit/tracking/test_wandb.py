"""W&B as a copy of metrics.jsonl: complete offline, one run online, harmless whatever it does."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.news import EvaluationNews, FedBy, News, StepNews, SystemNews, TroubleNews
from orchestrator.core.words import RunState
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.mirror import WandbMirror, open_wandb
from orchestrator.tracking.rows import read_rows
from orchestrator.tracking.rundir import RunDir
from orchestrator.tracking.scribe import Scribe
from orchestrator.tracking.wandb import default_host, read_run_id, read_url, run_config
from tests.fakes.clock import FakeClock
from tests.fakes.dying import do_and_die, do_until_killed
from tests.fakes.wandb_server import FakeWandbServer, Manners


@pytest.fixture(autouse=True)
def leave_this_account_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)


Mode = Literal["online", "offline", "off"]


def make_config(mode: Mode, *, alerts: bool = True) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "r",
            "data": {"train": [{"path": "d"}]},
            "prepare": {"tokens": {"train_bpe": 300}},
            "model": {"transformers": {"model_type": "llama"}},
            "train": {"steps": 10, "global_batch": 4},
            "cluster": {"env": {"MY_SETTING": "private"}},
            "tracking": {"wandb": {"mode": mode, "group": "g", "tags": ["a"], "notes": "mine", "alerts": alerts}},
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
    return StepNews(step=step, generation=generation, t=100.0 + step, metrics=metrics, ledger=ledger)


def system_news(t: float) -> SystemNews:
    return SystemNews(node="10.0.0.1", t=t, metrics={"cpu_percent": 42.0})


def validation_news(step: int, generation: int = 1) -> EvaluationNews:
    return EvaluationNews(
        step=step, generation=generation, t=100.0 + step, split="validation", metrics={"loss": 2.0, "perplexity": 9.0}
    )


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.01)


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


def test_the_id_of_a_run_never_changes(tmp_path: Path) -> None:
    assert read_run_id(tmp_path) == read_run_id(tmp_path)


def test_environment_variables_are_not_sent() -> None:
    assert "private" not in json.dumps(run_config(make_config("online"), {"chain": "abc"}))


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
    assert run["notes"] == f"mine\n\n`longhaul resume {tmp_path}`"
    assert (run["run_group"], run["job_type"], run["tags"]) == ("g", "train", ["a"])
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


def test_the_table_of_runs_shows_what_the_time_went_into(tmp_path: Path, monkeypatch: Any) -> None:
    journal = Journal.claim(tmp_path / "events", FakeClock(99.0))
    journal.append("started", world_size=2, checkpoint=None)
    with FakeWandbServer() as server, closing(journal):
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        scribe = make_scribe(tmp_path, "online")
        for step in range(5):
            scribe.write([step_news(step)])
        scribe.finish(RunState.DONE, 0)
    assert server.summary["seconds/data wait"] == pytest.approx(0.5)
    assert 0.0 < server.summary["goodput"] < 1.0


def test_a_run_that_stopped_at_an_evaluation_misses_no_step_when_it_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        first = make_scribe(tmp_path, "online")
        first.write([step_news(0), validation_news(1)])
        first.finish(RunState.STOPPED, 130)
        assert [row["_step"] for row in server.rows] == [0]
        assert server.rows[0]["validation/loss"] == 2  # people want to see it now
        assert server.rows[0]["note"] == "run stopped with exit code 130"
        second = make_scribe(tmp_path, "online")
        second.write([step_news(1, 2), step_news(2, 2)])
        second.finish(RunState.STOPPED, 130)
    assert [(row["_step"], row["train/loss"]) for row in server.rows] == [(0, 10), (1, 21), (2, 22)]
    assert server.rows[1]["validation/loss"] == 2


def test_nodes_and_validation_are_shown_as_people_want_them(tmp_path: Path, monkeypatch: Any) -> None:
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        scribe = make_scribe(tmp_path, "online")
        for step in range(3):
            loss = (3.0, 1.0, 2.0)[step]
            scribe.write(
                [EvaluationNews(step=step, generation=1, t=100.0 + step, split="validation", metrics={"loss": loss})]
            )
            scribe.write([step_news(step)])
            scribe.write([system_news(100.5 + step)])
        scribe.finish(RunState.DONE, 0)
    assert [row["system/10-0-0-1/cpu_percent"] for row in server.rows] == [42, 42, 42]
    assert [row["_timestamp"] for row in server.rows[:2]] == [100.5, 101.5]  # the last one has a note of now
    assert server.summary["validation/loss"] == {"min": 1}
    assert not [name for name in server.summary if name.startswith("system")]


def test_what_people_write_on_the_web_page_stays(tmp_path: Path, monkeypatch: Any) -> None:
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for step in range(2):
            scribe = make_scribe(tmp_path, "online")
            scribe.write([step_news(step)])
            scribe.finish(RunState.STOPPED, 130)
            if step == 0:
                assert server.page["notes"] == f"mine\n\n`longhaul resume {tmp_path}`"
                assert server.page["tags"] == ["a"]
                server.page |= {"notes": "theirs", "tags": ["b"]}
    assert server.page["notes"] == "theirs"
    assert sorted(server.page["tags"]) == ["a", "b"]


def test_the_address_of_a_run_is_known_once_it_is_online(tmp_path: Path, monkeypatch: Any) -> None:
    assert read_url(tmp_path) is None
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        make_scribe(tmp_path, "online").finish(RunState.STOPPED, 130)
        assert read_url(tmp_path) == f"{server.url}/e/p/runs/{read_run_id(tmp_path)}"


@pytest.mark.parametrize(
    ("state", "reason", "level"),
    [(RunState.FAILED, "rank 0: out of memory\nTraceback", "ERROR"), (RunState.DONE, "", "INFO")],
)
def test_the_end_of_a_run_is_an_alert(
    tmp_path: Path, monkeypatch: Any, state: RunState, reason: str, level: str
) -> None:
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        scribe = make_scribe(tmp_path, "online")
        scribe.write([step_news(0)])
        scribe.finish(state, int(state is RunState.FAILED), reason)
    [alert] = server.alerts
    assert (alert["title"], alert["severity"]) == (f"Longhaul: run {state}", level)
    assert ("rank 0: out of memory\nlonghaul resume" in alert["text"]) == (state is RunState.FAILED)
    assert "Traceback" not in alert["text"]


def test_numbers_that_go_wrong_are_an_alert_once(tmp_path: Path, monkeypatch: Any) -> None:
    fed = (FedBy(0, ("web/a.tar/k1",)),)
    trouble = TroubleNews(step=1, generation=1, t=5.0, kind="loss_spike", reason="loss 9 is above 4", fed=fed)
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        scribe = make_scribe(tmp_path, "online")
        scribe.write([step_news(0), step_news(1), trouble])
        scribe.write([trouble])  # told again
        scribe.finish(RunState.DONE, 0)
    alert, end = server.alerts
    assert (alert["title"], alert["severity"]) == ("Longhaul: loss spike", "WARN")
    assert alert["text"] == "r at step 1: loss 9 is above 4; rank 0 fed web/a.tar/k1"
    assert end["title"] == "Longhaul: run done"


def test_alerts_can_be_switched_off(tmp_path: Path, monkeypatch: Any) -> None:
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        config = make_config("online", alerts=False)
        scribe = Scribe(tmp_path, config, {}, SystemClock(), open_wandb)
        scribe.write([step_news(0)])
        scribe.finish(RunState.DONE, 0)
    assert server.exit_codes == [0]
    assert server.alerts == []


@pytest.fixture
def impatient_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks at once whether its button was pressed, not every 15 s."""

    async def sleep_a_little(_: float) -> None:
        await asyncio.sleep(0.02)

    monkeypatch.setattr("wandb.sdk.lib.run_stopping._SLEEP", sleep_a_little)


@pytest.mark.usefixtures("impatient_wandb")
def test_the_stop_button_asks_the_run_to_stop_after_a_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    run_dir = RunDir(tmp_path)
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        server.stopped = True
        scribe = make_scribe(tmp_path, "online")
        scribe.write([step_news(0), step_news(1)])
        wait_until(lambda: run_dir.asked_to_stop() is not None)
        scribe.finish(RunState.STOPPED, 130)
    request = run_dir.asked_to_stop()
    assert request is not None
    assert request["at_once"] is False
    assert "W&B's Stop button was pressed" in notes(tmp_path)


@pytest.mark.usefixtures("impatient_wandb")
def test_a_press_that_wandb_has_not_forgotten_does_not_stop_the_resumed_run(tmp_path: Path, monkeypatch: Any) -> None:
    run_dir = RunDir(tmp_path)
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        server.stopped = True
        for step in range(2):
            run_dir.forget_requests()  # as a resume does
            scribe = make_scribe(tmp_path, "online")
            scribe.write([step_news(2 * step), step_news(2 * step + 1)])
            wait_until(lambda: any(" stop" in note.lower() for note in notes(tmp_path)[2 * step :]))  # noqa: B023
            scribe.finish(RunState.STOPPED, 130)
    assert run_dir.asked_to_stop() is None
    assert any("W&B still says stop" in note for note in notes(tmp_path))


def test_the_host_is_the_one_wandb_is_set_to(monkeypatch: Any) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example:8080")
    assert default_host() == "http://wandb.example:8080"


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
        return WandbMirror(config, about, run_dir, note, ("online", "offline"), init_timeout_s=2, finish_timeout_s=4)

    scribe = Scribe(run_dir, make_config("online"), {}, SystemClock(), open_impatiently)
    begin = time.monotonic()
    for step in range(20):
        scribe.write([step_news(step)])
    assert time.monotonic() - begin < 2
    begin = time.monotonic()
    scribe.finish(RunState.DONE, 0)
    assert time.monotonic() - begin < 15


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
