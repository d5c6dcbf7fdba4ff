"""The scribe's promise: what write() returned for is on disk once, whoever dies when."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.run import RunConfig
from orchestrator.core.clock import SystemClock
from orchestrator.core.news import (
    BegunNews,
    CheckpointNews,
    EvaluationNews,
    HolesNews,
    KeysNews,
    LeftOut,
    News,
    NoteNews,
    StepNews,
    SystemNews,
    VoidedNews,
)
from orchestrator.core.words import RunState, Span
from orchestrator.data.ordering.skips import Skips
from orchestrator.storage.lines import read_lines
from orchestrator.tracking.keys import read_keys
from orchestrator.tracking.rows import read_ledger, read_metrics, read_rows
from orchestrator.tracking.scribe import End, Scribe
from tests.fakes.dying import do_and_die, do_until_killed

CONFIG = RunConfig.model_validate(
    {
        "name": "r",
        "data": {"train": [{"path": "d"}], "ledger": "keys"},
        "prepare": {"tokens": {"train_bpe": 300}},
        "model": {"transformers": {"model_type": "llama"}},
        "train": {"steps": 10, "global_batch": 4},
    }
)


class FakeMirror:
    def __init__(self, note: Callable[[str], None]) -> None:
        self.note, self.wakes, self.ends = note, 0, list[End]()

    def wake(self) -> None:
        self.wakes += 1

    def finish(self, end: End) -> None:
        self.ends.append(end)
        self.note("mirror finished")


def make_scribe(run_dir: Path) -> Scribe:
    return Scribe(run_dir, CONFIG, {}, SystemClock(), None)


def step_news(step: int, generation: int = 1) -> StepNews:
    ledger: dict[str, str | int] = {"order_digest": f"{step:032x}", "set_digest": "0" * 32, "count": 4}
    return StepNews(
        step=step, generation=generation, t=5.0, metrics={"loss": 1.0 / (step + 1), "applied": True}, ledger=ledger
    )


def keys_news(step: int, generation: int = 1) -> KeysNews:
    return KeysNews(step=step, generation=generation, slots=[0], spans=[[Span(0, step, 0, 0)]])


def test_rows_have_the_documented_form(tmp_path: Path) -> None:
    scribe = make_scribe(tmp_path)
    evaluation = EvaluationNews(step=1, generation=1, t=6.0, split="validation", metrics={"loss": 2.0})
    checkpoint = CheckpointNews(step=1, generation=1, folder="f", seconds=0.5, size_bytes=9, problem="disk full")
    scribe.write([step_news(0), evaluation, checkpoint])
    scribe.finish(RunState.DONE, 0)
    head, *rows = read_lines(tmp_path / "metrics.jsonl")
    assert head == {"format": 1}
    assert rows[0] == {"step": 0, "generation": 1, "t": 5.0, "loss": 1.0, "applied": True}
    evaluated = {"step": 1, "generation": 1, "kind": "evaluation", "t": 6.0, "split": "validation", "loss": 2.0}
    assert rows[1] == evaluated
    assert rows[2]["kind"] == "checkpoint"
    assert rows[2]["problem"] == "disk full"
    assert rows[3]["text"] == "run done with exit code 0"
    assert list(read_lines(tmp_path / "ledger.jsonl")) == [
        {"format": 1},
        {"step": 0, "generation": 1, "order_digest": "0" * 32, "set_digest": "0" * 32, "count": 4},
    ]


def test_news_told_again_after_a_restart_is_written_once(tmp_path: Path) -> None:
    news: list[News] = [step_news(0), step_news(1), EvaluationNews(step=2, generation=1, t=7.0, split="v", metrics={})]
    do_and_die(lambda: make_scribe(tmp_path).write(news))  # killed before its answer arrived
    second = make_scribe(tmp_path)
    second.write([*news, step_news(2)])
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0, 1, 2, 2]
    assert [row["step"] for row in read_rows(tmp_path / "ledger.jsonl")] == [0, 1, 2]
    second.finish(RunState.STOPPED, 130)


def test_a_note_of_a_rank_is_written_once_whoever_tells_it_again(tmp_path: Path) -> None:
    note = NoteNews(step=3, generation=1, t=7.0, text="no sample of class 2")
    other = NoteNews(step=3, generation=1, t=7.0, text="another")
    scribe = make_scribe(tmp_path)
    scribe.write([note])
    scribe.finish(RunState.STOPPED, 130)
    again = make_scribe(tmp_path)
    again.write([note, other])
    again.finish(RunState.DONE, 0)
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row.get("origin") == "rank"]
    assert [(row["kind"], row["step"], row["text"]) for row in rows] == [("note", 3, note.text), ("note", 3, "another")]


def test_samples_of_nodes_stand_at_the_last_step_and_are_written_once(tmp_path: Path) -> None:
    first = SystemNews(node="a", t=10.0, metrics={"cpu_percent": 50.0})
    second = SystemNews(node="a", t=25.0, metrics={"cpu_percent": 60.0})
    other = SystemNews(node="b", t=10.0, metrics={"cpu_percent": 70.0})

    def tell_and_die() -> None:
        scribe = make_scribe(tmp_path)
        for item in (first, step_news(3, generation=2), second):
            scribe.write([item])

    do_and_die(tell_and_die)
    again = make_scribe(tmp_path)
    again.write([second, other, step_news(4, generation=2)])
    again.finish(RunState.DONE, 0)
    samples = [row for row in read_rows(tmp_path / "metrics.jsonl") if row.get("kind") == "system"]
    assert samples[0] == {"step": 0, "generation": 0, "kind": "system", "t": 10.0, "node": "a", "cpu_percent": 50.0}
    assert [(row["node"], row["t"], row["step"], row["generation"]) for row in samples[1:]] == [
        ("a", 25.0, 3, 2),
        ("b", 10.0, 3, 2),
    ]
    assert [row["step"] for row in read_metrics(tmp_path)] == [3, 4]


def test_steps_replayed_by_a_later_generation_are_written_beside_the_earlier_ones(tmp_path: Path) -> None:
    scribe = make_scribe(tmp_path)
    scribe.write([step_news(0), step_news(1), step_news(1, 2), step_news(2, 2)])
    scribe.finish(RunState.DONE, 0)
    rows = [(row["generation"], row["step"]) for row in read_rows(tmp_path / "ledger.jsonl")]
    assert rows == [(1, 0), (1, 1), (2, 1), (2, 2)]
    assert [row["generation"] for row in read_metrics(tmp_path)] == [1, 2, 2]


@pytest.mark.parametrize(("file", "keep"), [("metrics.jsonl", 0), ("metrics.jsonl", 30), ("ledger.jsonl", 1)])
def test_a_write_cut_off_anywhere_is_completed_when_told_again(tmp_path: Path, file: str, keep: int) -> None:
    do_and_die(lambda: make_scribe(tmp_path).write([step_news(0)]))
    whole = (tmp_path / file).stat().st_size
    do_and_die(lambda: make_scribe(tmp_path).write([step_news(1), step_news(2)]))
    os.truncate(tmp_path / file, whole + keep)  # the ledger is written first, so it is ahead or torn itself
    second = make_scribe(tmp_path)
    second.write([step_news(1), step_news(2)])
    for name in ("metrics.jsonl", "ledger.jsonl"):
        assert [row["step"] for row in read_rows(tmp_path / name)] == [0, 1, 2]
    second.finish(RunState.STOPPED, 130)


HOLES = HolesNews(
    step=3,
    generation=1,
    holes=(LeftOut(40, "pictures/0.tar/a", "cut short"), LeftOut(42, "pictures/1.tar/b", "no PNG")),
)


def test_samples_left_out_are_written_down_and_noted_once_whoever_tells_them_again(tmp_path: Path) -> None:
    def tell_and_die() -> None:
        scribe = make_scribe(tmp_path)
        scribe.write([step_news(2), HOLES])

    do_and_die(tell_and_die)
    again = make_scribe(tmp_path)
    later = HolesNews(step=4, generation=2, holes=(LeftOut(50, "pictures/0.tar/c", "cut short"),))
    again.write([HOLES, later])
    again.finish(RunState.DONE, 0)
    assert list(read_lines(tmp_path / "skips.jsonl")) == [
        {"format": 1},
        {"step": 3, "position": 40, "sample": "pictures/0.tar/a", "reason": "cut short"},
        {"step": 3, "position": 42, "sample": "pictures/1.tar/b", "reason": "no PNG"},
        {"step": 4, "position": 50, "sample": "pictures/0.tar/c", "reason": "cut short"},
    ]
    notes = [row["text"] for row in read_rows(tmp_path / "metrics.jsonl") if row.get("kind") == "note"]
    assert notes[0] == "step 3: pictures/0.tar/a does not decode and is left out: cut short"
    assert [note.partition(" does")[0] for note in notes[:-1]] == [
        "step 3: pictures/0.tar/a", "step 3: pictures/1.tar/b", "step 4: pictures/0.tar/c"
    ]  # fmt: skip
    assert [row["step"] for row in read_rows(tmp_path / "ledger.jsonl")] == [2]


def test_a_voided_batch_is_written_down_and_noted_once_and_read_as_a_skip(tmp_path: Path) -> None:
    news = VoidedNews(step=3, generation=1, t=7.0, reason="loss nan and gradient norm nan")

    def tell_and_die() -> None:
        make_scribe(tmp_path).write([step_news(2), news])

    do_and_die(tell_and_die)
    again = make_scribe(tmp_path)
    again.write([news, HOLES])
    again.finish(RunState.DONE, 0)
    rows = list(read_lines(tmp_path / "skips.jsonl"))[1:]
    assert rows[0] == {"step": 3, "voided": True, "reason": "loss nan and gradient norm nan"}
    assert Skips.load(tmp_path / "skips.jsonl") == Skips(frozenset({3}), frozenset({(3, 40), (3, 42)}))
    notes = [row["text"] for row in read_rows(tmp_path / "metrics.jsonl") if row.get("kind") == "note"]
    assert notes[0] == "step 3: its batch is left out of the run: loss nan and gradient norm nan"
    assert sum("its batch" in note for note in notes) == 1


def test_that_a_world_has_begun_is_no_row(tmp_path: Path) -> None:
    scribe = make_scribe(tmp_path)
    scribe.write([BegunNews(step=3, generation=2, t=7.0, seconds={"join": 0.1}), step_news(3)])
    scribe.finish(RunState.DONE, 0)
    assert [row.get("kind") for row in read_rows(tmp_path / "metrics.jsonl")] == [None, "note"], "a step, and the end"


def test_a_run_that_leaves_nothing_out_has_no_file_of_skips(tmp_path: Path) -> None:
    scribe = make_scribe(tmp_path)
    scribe.write([step_news(0)])
    scribe.finish(RunState.DONE, 0)
    assert not (tmp_path / "skips.jsonl").exists()


def test_mirror_is_woken_finished_and_may_annotate_until_the_end(tmp_path: Path) -> None:
    mirrors: list[FakeMirror] = []

    def open_mirror(config: RunConfig, about: dict[str, Any], run_dir: Path, note: Callable[[str], None]) -> FakeMirror:
        mirrors.append(FakeMirror(note))
        return mirrors[0]

    scribe = Scribe(tmp_path, CONFIG, {}, SystemClock(), open_mirror)
    scribe.write([step_news(0)])
    assert mirrors[0].wakes == 1
    scribe.finish(RunState.FAILED, 1, "rank 0: no\nTraceback")
    assert mirrors[0].ends == [End(RunState.FAILED, 1, "rank 0: no\nTraceback")]
    mirrors[0].note("too late")
    texts = [row["text"] for row in read_rows(tmp_path / "metrics.jsonl") if row.get("kind") == "note"]
    assert texts == ["run failed with exit code 1: rank 0: no", "mirror finished"]


def test_importing_the_scribe_imports_nothing_heavy() -> None:
    code = (
        "import sys, orchestrator.tracking.scribe, orchestrator.tracking.rows, orchestrator.tracking.mirror;"
        "print(sorted({'torch', 'wandb', 'pyarrow', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def news_of(steps: range) -> list[News]:
    return [item for step in steps for item in (step_news(step), keys_news(step))]


def tell_steps(run_dir: Path, step: int, acknowledged: int) -> None:
    """Writes batches of three steps for ever and tells the pipe how far write() has acknowledged."""
    scribe = make_scribe(run_dir)
    while True:
        scribe.write(news_of(range(step, step + 3)))
        step += 3
        os.write(acknowledged, b"%d\n" % step)


def test_a_scribe_killed_again_and_again_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random(0)
    told = 0
    for _ in range(12):
        reader, writer = os.pipe()
        heard: list[bytes] = []
        do_until_killed(
            partial(tell_steps, tmp_path, told, writer),
            after_s=0.05 * chance.random(),
            wait=partial(lambda pipe, into: into.append(os.read(pipe, 4096)), reader, heard),
        )
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            told = max(int(line) for line in (b"".join(heard) + pipe.read()).splitlines())
    last = make_scribe(tmp_path)
    last.write(news_of(range(told, told + 3)))
    last.finish(RunState.DONE, 0)
    steps = list(range(told + 3))
    metrics = [row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if "kind" not in row]
    assert metrics == [row["step"] for row in read_rows(tmp_path / "ledger.jsonl")] == steps
    assert list(read_ledger(tmp_path)) == steps
    assert read_keys(tmp_path, steps) == {step: [[Span(0, step, 0, 0)]] for step in steps}
