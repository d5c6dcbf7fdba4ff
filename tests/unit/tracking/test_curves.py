"""Rows of metrics.jsonl as rows of W&B."""

from typing import Any

from orchestrator.tracking.curves import StepCopy, evaluation_values, step_values, system_values

Logged = list[tuple[int, dict[str, Any]]]


class FakeRun:
    """Merges what is logged at the last step and refuses what comes before, as W&B does."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step >= max(self.rows, default=0), f"step {step} is before the last one"
        self.rows.setdefault(step, {}).update(values)


def copied(*rows: dict[str, Any], first_step: int = 0, done: bool = True) -> Logged:
    run = FakeRun()
    copy = StepCopy(run.log, first_step)
    for row in rows:
        copy.take({"generation": 1} | row)
    copy.finish(done=done)
    unasked = ("world/generation", "_timestamp")
    return [(step, {k: v for k, v in row.items() if k not in unasked}) for step, row in run.rows.items()]


def note(text: str) -> dict[str, Any]:
    return {"step": 0, "kind": "note", "t": 7.0, "text": text}


def evaluation(step: int, loss: float = 5) -> dict[str, Any]:
    return {"step": step, "kind": "evaluation", "split": "validation", "loss": loss}


def sample(step: int, node: str, cpu: float) -> dict[str, Any]:
    return {"step": step, "kind": "system", "t": 7.0, "node": node, "cpu_percent": cpu}


def test_of_a_repeated_step_the_first_row_stays() -> None:
    rows = [{"step": 0, "loss": 1}, {"step": 1, "loss": 2}, {"step": 0, "loss": 3}, {"step": 2, "loss": 4}]
    assert copied(*rows) == [(0, {"train/loss": 1}), (1, {"train/loss": 2}), (2, {"train/loss": 4})]


def test_everything_about_a_step_is_one_row() -> None:
    rows = copied({"step": 0, "loss": 1}, evaluation(1), {"step": 1, "loss": 2}, note("a"), sample(1, "n", 3))
    assert rows == [
        (0, {"train/loss": 1}),
        (1, {"validation/loss": 5, "train/loss": 2, "note": "a", "system/n/cpu_percent": 3}),
    ]


def test_notes_go_with_the_step_they_follow() -> None:
    rows = [note("old"), {"step": 0, "loss": 1}, note("a"), note("b"), {"step": 1, "loss": 2}, note("end")]
    assert copied(*rows) == [(0, {"train/loss": 1, "note": "old; a; b"}), (1, {"train/loss": 2, "note": "end"})]


def test_trouble_is_a_note_that_says_of_which_step() -> None:
    trouble = {"step": 1, "kind": "trouble", "t": 7.0, "what": "loss_spike", "text": "loss 9"}
    rows = [{"step": 0, "loss": 1}, {"step": 1, "loss": 9}, trouble]
    assert copied(*rows) == [(0, {"train/loss": 1}), (1, {"train/loss": 9, "note": "step 1: loss 9"})]


def test_a_continued_run_gets_only_what_the_server_lacks() -> None:
    rows = [note("old"), {"step": 0, "loss": 1}, sample(0, "a", 1), note("new"), {"step": 1, "loss": 2}]
    assert copied(*rows, first_step=1) == [(1, {"train/loss": 2, "note": "new"})]
    assert copied(*rows, first_step=2) == []


def test_a_step_not_yet_trained_stays_open_for_the_next_life_of_the_run() -> None:
    """A row logged at step 1 would make W&B refuse that step when the run goes on."""
    rows = [{"step": 0, "loss": 1}, evaluation(1), note("stopped")]
    stopped = copied(*rows, done=False)
    assert stopped == [(0, {"train/loss": 1, "validation/loss": 5, "note": "stopped"})]
    goes_on = copied(*rows, {"step": 1, "loss": 2}, first_step=1)
    assert goes_on == [(1, {"validation/loss": 5, "train/loss": 2, "note": "stopped"})]
    assert copied(evaluation(0), note("failed at once"), done=False) == []


def test_a_run_that_is_done_logs_its_last_evaluation_at_its_own_step() -> None:
    assert copied({"step": 0, "loss": 1}, evaluation(1)) == [(0, {"train/loss": 1}), (1, {"validation/loss": 5})]


def test_nodes_are_told_apart_and_the_last_sample_of_a_step_stays() -> None:
    rows = copied({"step": 0, "loss": 1}, sample(0, "10.0.0.1", 3), sample(0, "10.0.0.1", 4), sample(0, "b", 5))
    [(step, values)] = rows
    assert step == 0
    assert values["train/loss"] == 1
    assert values["system/10-0-0-1/cpu_percent"] == 4
    assert values["system/b/cpu_percent"] == 5


def test_names_that_people_know() -> None:
    row = {
        "loss": 1, "lr": 0.1, "grad_norm": 3, "step_s": 0.5, "data_wait_s": 0.1, "tokens": 1000, "samples": 4,
        "world_size": 2, "epoch": 0.5, "read_bytes": 7, "decode_s": 0.2, "cache_hits": 8, "cache_misses": 1,
        "fetched_bytes": 9, "holes": 1,
    }  # fmt: skip
    assert copied({"step": 0} | row)[0][1] == {
        "train/loss": 1,
        "train/lr": 0.1,
        "train/grad_norm": 3,
        "train/tokens": 1000,
        "train/samples": 4,
        "time/step": 0.5,
        "time/data_wait": 0.1,
        "time/decode": 0.2,
        "data/read_bytes": 7,
        "data/cache_hits": 8,
        "data/cache_misses": 1,
        "data/fetched_bytes": 9,
        "data/holes": 1,
        "world/size": 2,
        "throughput/tokens_per_sec": 2000,
        "throughput/samples_per_sec": 8,
        "throughput/device/tokens_per_sec": 1000,
        "throughput/device/samples_per_sec": 4,
        "progress/tokens": 1000,
        "progress/samples": 4,
        "progress/epoch": 0.5,
    }


def test_a_void_step_is_a_gap_in_the_curves_of_the_loss() -> None:
    values = step_values({"step": 3, "loss": 0.0, "grad_norm": 0.0, "lr": 0.1, "samples": 0, "applied": False})
    assert values == {"train/lr": 0.1, "train/samples": 0, "train/applied": False}


def test_wandb_hears_when_it_happened() -> None:
    """What is sent later is shown at its own time; W&B takes a value of this name for the time of the row."""
    assert step_values({"step": 0, "t": 1234.5}) == {"_timestamp": 1234.5}
    assert evaluation_values(evaluation(0) | {"t": 1234.5}) == {"validation/loss": 5, "_timestamp": 1234.5}
    assert system_values(sample(0, "n", 1)) == {"system/n/cpu_percent": 1, "_timestamp": 7}


def test_progress_counts_each_step_once_also_those_the_server_has() -> None:
    rows = [{"step": step, "tokens": 10} for step in (0, 1, 2, 1, 2, 3)]
    assert [values["progress/tokens"] for _, values in copied(*rows)] == [10, 20, 30, 40]
    assert [values["progress/tokens"] for _, values in copied(*rows, first_step=3)] == [40]


def test_what_is_not_for_curves_is_left_out() -> None:
    assert copied({"step": 1, "kind": "checkpoint", "seconds": 1}) == []


def test_lists_are_curves_by_class_and_matrices_none() -> None:
    row = evaluation(1) | {"f1": [0.5, None, 1.0], "confusion_matrix": [[1, 0], [0, 1]], "recall": [0.5] * 101}
    assert evaluation_values(row) == {"validation/loss": 5, "validation/f1/0": 0.5, "validation/f1/2": 1.0}
