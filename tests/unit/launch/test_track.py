"""Runs that were offline, brought to W&B afterwards."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch.screen import Screen
from launch.track import sync
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import BadInput, LonghaulError
from orchestrator.core.news import EvaluationNews, News, StepNews, SystemNews
from orchestrator.core.words import ExitCode, RunState
from orchestrator.storage.publish import publish_json
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.lease import write_lease
from orchestrator.tracking.mirror import open_wandb
from orchestrator.tracking.rundir import RunDir
from orchestrator.tracking.scribe import Scribe
from orchestrator.tracking.wandb import read_run_id
from tests.fakes.wandb_server import FakeWandbServer

CONFIG = RunConfig.model_validate(
    {
        "name": "r",
        "data": {"train": [{"path": "d"}]},
        "prepare": {"tokens": {"train_bpe": 300}},
        "model": {"transformers": {"model_type": "llama"}},
        "train": {"steps": 10, "global_batch": 4},
        "tracking": {"wandb": {"mode": "offline", "project": "p"}},
    }
)


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)

    def fill(folder: Path) -> None:
        (folder / "config.yaml").write_text(dump_yaml(CONFIG))
        publish_json(folder / "plan.json", {"format": 1, "hash": "h"})
        publish_json(folder / "manifest.json", {"format": 1, "segments": ["c0", "c1"]})

    made = RunDir(tmp_path / "r")
    made.create(fill)
    return made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandbServer]:
    with FakeWandbServer() as fake:
        monkeypatch.setenv("WANDB_BASE_URL", fake.url)
        yield fake


def live(run_dir: RunDir, generation: int, steps: range, state: RunState, mode: str = "offline") -> None:
    """One life of a run and its scribe; afterwards it has ended."""
    config = load_config(run_dir.config, sets=[f"tracking.wandb.mode={mode}"]).config
    scribe = Scribe(run_dir.path, config, {"chain": "c1"}, SystemClock(), open_wandb)
    for step in steps:
        scribe.write([step_news(step, generation)])
    metrics = {"loss": 1.0}
    last: list[News] = [
        EvaluationNews(step=steps.stop, generation=generation, t=2000.0, split="validation", metrics=dict(metrics)),
        SystemNews(node="n", t=2000.0 + generation, metrics={"cpu_percent": 1.0}),
    ]
    scribe.write(last)
    code = ExitCode.DONE if state is RunState.DONE else ExitCode.STOPPED
    scribe.finish(state, code)
    journal = Journal.claim(run_dir.events, SystemClock())
    journal.append(state.value, exit_code=int(code))
    journal.close()


def step_news(step: int, generation: int) -> StepNews:
    ledger: dict[str, str | int] = {"order_digest": "0", "set_digest": "0", "count": 4}
    loss = 10.0 * generation + step
    metrics: dict[str, float | int | bool] = {"loss": loss, "tokens": 10, "step_s": 0.5, "data_wait_s": 0.0}
    return StepNews(step=step, generation=generation, t=1000.0 + step, metrics=metrics, ledger=ledger)


def sync_and_read(run_dir: RunDir, *, dry_run: bool = False) -> str:
    text = io.StringIO()
    assert sync(run_dir, dry_run=dry_run, screen=Screen(Console(file=text, width=80))) is ExitCode.DONE
    return text.getvalue()


def losses(server: FakeWandbServer) -> list[tuple[int, float]]:
    return [(row["_step"], row["train/loss"]) for row in server.rows if "train/loss" in row]


def test_offline_segments_become_one_run_with_every_true_step_once(run_dir: RunDir, server: FakeWandbServer) -> None:
    live(run_dir, 1, range(4), RunState.STOPPED)
    live(run_dir, 2, range(2, 6), RunState.DONE)
    text = sync_and_read(run_dir)
    assert losses(server) == [(0, 10), (1, 11), (2, 22), (3, 23), (4, 24), (5, 25)]
    assert [row["_step"] for row in server.rows] == [0, 1, 2, 3, 4, 5, 6]
    assert server.rows[6]["validation/loss"] == 1
    assert server.rows[2]["_timestamp"] == 1002  # when it happened
    assert [row["progress/tokens"] for row in server.rows[:6]] == [10, 20, 30, 40, 50, 60]
    assert server.exit_codes == [0]
    assert server.alerts == []  # it is long over
    assert server.configs[0]["longhaul"]["value"]["chain"] == "c1"
    assert server.configs[0]["longhaul"]["value"]["hash"] == "h"
    assert text == f"sent everything from step 0 on: {server.url}/e/p/runs/{read_run_id(run_dir.path)}\n"


def test_a_second_sync_sends_nothing_new(run_dir: RunDir, server: FakeWandbServer) -> None:
    live(run_dir, 1, range(3), RunState.STOPPED)
    sync_and_read(run_dir)
    rows = dict(server.history)
    assert "W&B has it all" in sync_and_read(run_dir)
    assert server.history == rows


def test_a_run_that_was_online_at_times_is_completed(run_dir: RunDir, server: FakeWandbServer) -> None:
    live(run_dir, 1, range(3), RunState.STOPPED, mode="online")
    live(run_dir, 2, range(3, 6), RunState.STOPPED)
    assert losses(server) == [(0, 10), (1, 11), (2, 12)]
    assert "from step 3 on" in sync_and_read(run_dir)
    assert losses(server) == [(0, 10), (1, 11), (2, 12), (3, 23), (4, 24), (5, 25)]


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(run_dir: RunDir, server: FakeWandbServer) -> None:
    live(run_dir, 1, range(4), RunState.STOPPED)
    live(run_dir, 2, range(2, 6), RunState.STOPPED)
    text = " ".join(sync_and_read(run_dir, dry_run=True).split())
    assert "steps 0-5, 1 evaluation(s), 2 note(s), 1 sample(s) of nodes" in text
    assert f"run {read_run_id(run_dir.path)} of project p" in text
    assert "offline segment(s)" in text
    assert server.configs == []


def test_a_living_run_is_refused(run_dir: RunDir, server: FakeWandbServer) -> None:
    journal = Journal.claim(run_dir.events, SystemClock())
    clock = SystemClock()
    write_lease(run_dir.lease, generation=1, lease_s=60, address="a", clock=clock, pids=[], all_here=True)
    journal.append("started", world_size=1, node_actors=[])
    journal.close()
    with pytest.raises(BadInput, match="the run is running") as raised:
        sync_and_read(run_dir)
    assert "longhaul stop" in raised.value.remedy
    assert server.configs == []


def test_without_a_key_the_way_out_is_named(run_dir: RunDir, monkeypatch: Any) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    live(run_dir, 1, range(1), RunState.STOPPED)
    with pytest.raises(BadInput, match="no W&B API key") as raised:
        sync_and_read(run_dir)
    assert "wandb login" in raised.value.remedy


def test_a_run_without_rows_is_refused(run_dir: RunDir) -> None:
    journal = Journal.claim(run_dir.events, SystemClock())
    journal.append("failed", exit_code=1)
    journal.close()
    with pytest.raises(BadInput, match="has written nothing"):
        sync_and_read(run_dir)


def test_a_server_that_cannot_be_reached_costs_nothing(run_dir: RunDir, monkeypatch: Any) -> None:
    live(run_dir, 1, range(3), RunState.STOPPED)
    with FakeWandbServer("garbage") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        with pytest.raises(LonghaulError, match="W&B failed") as raised:
            sync_and_read(run_dir)
        assert raised.value.exit_code is ExitCode.FAILED
        server.manners = "good"
        assert "from step 0 on" in sync_and_read(run_dir)
    assert losses(server) == [(0, 10), (1, 11), (2, 12)]
