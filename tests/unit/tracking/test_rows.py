"""Reading metrics.jsonl, ledger.jsonl and ledger-keys/ back."""

from functools import partial
from pathlib import Path

import pytest

from orchestrator.core.errors import DataError
from orchestrator.core.news import KeysNews
from orchestrator.core.words import Span
from orchestrator.storage.lines import LineFile
from orchestrator.tracking.keys import KeyParts, read_keys
from orchestrator.tracking.rows import read_evaluations, read_ledger, read_losses, read_metrics, read_true_rows
from tests.fakes.dying import do_and_die


def write_rows(path: Path, *rows: dict[str, object]) -> None:
    with LineFile(path, head={"format": 1}) as file:
        file.append(rows)


def keys(step: int, generation: int, first_slot: int, *places: int) -> KeysNews:
    spans = [[Span(7, place, 0, 64), Span(7, place + 1, 3, 1)] for place in places]
    return KeysNews(
        step=step, generation=generation, slots=list(range(first_slot, first_slot + len(places))), spans=spans
    )


def test_a_run_without_rows_reads_as_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == read_evaluations(tmp_path) == []
    assert read_ledger(tmp_path) == {}
    assert read_keys(tmp_path, range(3)) == {}


def test_the_row_of_the_highest_generation_then_the_last_one_is_the_truth(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"step": 1, "generation": 2, "loss": 5.0},
        {"step": 0, "generation": 1, "loss": 1.0},
        {"step": 0, "generation": 1, "loss": 2.0},
        {"step": 1, "generation": 1, "loss": 4.0},
    ]
    write_rows(tmp_path / "metrics.jsonl", *rows)
    write_rows(tmp_path / "ledger.jsonl", *(ledger_row(row["step"], row["generation"], row["loss"]) for row in rows))
    assert [row["loss"] for row in read_metrics(tmp_path)] == [2.0, 5.0]
    steps, losses = read_losses(tmp_path)
    assert (steps.tolist(), losses.tolist()) == ([0, 1], [2.0, 5.0])
    assert {step: row["count"] for step, row in read_ledger(tmp_path).items()} == {0: 2, 1: 5}


def ledger_row(step: int, generation: int, count: float) -> dict[str, object]:
    digests = {"order_digest": f"{step:032x}", "set_digest": f"{step + 2**127:032x}"}
    return {"step": step, "generation": generation, **digests, "count": int(count)}


def test_the_ledger_gives_back_the_rows_that_were_written(tmp_path: Path) -> None:
    rows = [ledger_row(step, 1, 10 + step) for step in (0, 1, 3)]
    write_rows(tmp_path / "ledger.jsonl", *rows, {**rows[1], "count": 9}, rows[1])
    ledger = read_ledger(tmp_path)
    told = [{name: value for name, value in row.items() if name != "generation"} for row in rows]
    assert list(ledger.rows()) == list(ledger.values()) == told
    assert list(ledger) == ledger.steps.tolist() == [0, 1, 3]
    assert 2 not in ledger
    with pytest.raises(KeyError):
        ledger[4]


@pytest.mark.parametrize(
    "damage", [{"count": 5.5}, {"count": None}, {"step": "0"}, {"order_digest": "00"}, {"set_digest": "x" * 32}]
)
def test_a_damaged_ledger_row_is_named(tmp_path: Path, damage: dict[str, object]) -> None:
    write_rows(tmp_path / "ledger.jsonl", ledger_row(0, 1, 4), ledger_row(1, 1, 4) | damage, ledger_row(2, 1, 4))
    with pytest.raises(DataError, match="is damaged at row 2"):
        read_ledger(tmp_path)


def test_a_ledger_row_that_is_no_json_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "ledger.jsonl", ledger_row(0, 1, 4), ledger_row(1, 1, 4))
    path = tmp_path / "ledger.jsonl"
    path.write_text(path.read_text().replace('{"step": 1,', '{"step": 1;'))
    with pytest.raises(DataError, match=r"ledger.jsonl: is damaged at row 1, or the next"):
        read_ledger(tmp_path)


def test_the_run_descends_from_what_was_not_done_again(tmp_path: Path) -> None:
    """Generation 2 began again at step 2, generation 3 at step 3; 2 had come as far as 4, 3 only as far as 3."""
    rows: list[dict[str, object]] = [
        *({"step": step, "generation": 1} for step in (0, 1, 2, 3)),
        {"step": 2, "generation": 1, "kind": "evaluation", "split": "validation"},
        {"step": 3, "generation": 1, "kind": "evaluation", "split": "validation"},
        {"step": 3, "generation": 1, "kind": "note", "text": "restart"},
        *({"step": step, "generation": 2} for step in (2, 3, 4)),
        {"step": 4, "generation": 2, "kind": "system", "node": "a", "t": 1.0},
        {"step": 3, "generation": 3},
    ]
    write_rows(tmp_path / "metrics.jsonl", *rows)
    true = [(row["step"], row["generation"], row.get("kind", "")) for row in read_true_rows(tmp_path)]
    assert true == [
        (0, 1, ""), (1, 1, ""), (2, 1, "evaluation"), (3, 1, "note"), (2, 2, ""), (3, 3, ""),
    ]  # fmt: skip


def test_a_later_generation_may_go_back_further_than_the_one_before(tmp_path: Path) -> None:
    """When a checkpoint is damaged."""
    steps = [(0, 1), (1, 1), (2, 1), (3, 1), (3, 2), (4, 2), (1, 3), (2, 3)]
    write_rows(tmp_path / "metrics.jsonl", *({"step": step, "generation": generation} for step, generation in steps))
    assert [(row["step"], row["generation"]) for row in read_true_rows(tmp_path)] == [(0, 1), (1, 3), (2, 3)]


def test_steps_evaluations_and_notes_are_told_apart(tmp_path: Path) -> None:
    evaluation = {"step": 1, "generation": 1, "kind": "evaluation", "split": "validation", "loss": 3.0}
    note = {"step": 1, "generation": 1, "kind": "note", "text": "resized"}
    write_rows(tmp_path / "metrics.jsonl", {"step": 0, "generation": 1}, evaluation, note)
    assert read_metrics(tmp_path) == [{"step": 0, "generation": 1}]
    assert read_evaluations(tmp_path) == [evaluation]


def test_a_row_half_written_is_passed_over(tmp_path: Path) -> None:
    write_rows(tmp_path / "metrics.jsonl", {"step": 0, "generation": 1})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 1, "gener')
    assert [row["step"] for row in read_metrics(tmp_path)] == [0]


def test_rows_of_a_later_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"format": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: format is 2"):
        read_metrics(tmp_path)


def test_keys_come_back_in_batch_order_from_parts_and_from_what_is_pending(tmp_path: Path) -> None:
    parts = KeyParts(tmp_path, spans_per_part=8)
    for step in range(3):
        parts.add([keys(step, 1, 2, 20, 30), keys(step, 1, 0, 0, 10)])  # 8 spans: a part a step
    parts.add([keys(3, 1, 0, 0)])
    assert len(list((tmp_path / "ledger-keys").glob("part-*.arrow"))) == 3
    found = read_keys(tmp_path, range(1, 9))
    assert list(found) == [1, 2, 3]
    assert [spans[0].place for spans in found[1]] == [0, 10, 20, 30]
    assert found[3] == [[Span(7, 0, 0, 64), Span(7, 1, 3, 1)]]
    parts.close()
    assert read_keys(tmp_path, [3]) == {3: found[3]}


def test_a_slot_fed_with_nothing_is_an_empty_list(tmp_path: Path) -> None:
    parts = KeyParts(tmp_path)
    parts.add([KeysNews(step=0, generation=1, slots=[0, 1], spans=[[], [Span(0, 1, 0, 0)]])])
    parts.add([KeysNews(step=0, generation=1, slots=[], spans=[])])
    parts.close()
    assert read_keys(tmp_path, [0]) == {0: [[], [Span(0, 1, 0, 0)]]}


def test_keys_of_a_replayed_step_are_those_of_the_last_generation(tmp_path: Path) -> None:
    parts = KeyParts(tmp_path)
    parts.add([keys(0, 1, 0, 5, 6), keys(0, 2, 0, 8)])
    parts.close()
    assert [spans[0].place for spans in read_keys(tmp_path, [0])[0]] == [8]


def tell(run_dir: Path, spans_per_part: int, told: list[KeysNews]) -> None:
    KeyParts(run_dir, spans_per_part).add(told)


def test_keys_told_again_are_kept_once_wherever_the_writer_was_killed(tmp_path: Path) -> None:
    told = [keys(0, 1, 0, 1, 2), keys(0, 1, 2, 3, 4)]
    for spans_per_part in (100, 8):  # left pending; made a part just before the answer was lost
        run_dir = tmp_path / str(spans_per_part)
        do_and_die(partial(tell, run_dir, spans_per_part, told))
        second = KeyParts(run_dir, spans_per_part)
        second.add([*told, keys(1, 1, 0, 5)])
        second.close()
        found = read_keys(run_dir, [0, 1])
        assert [len(spans) for spans in found[0]] == [2, 2, 2, 2]
        assert len(found[1]) == 1


def test_a_pending_file_whose_part_was_published_is_not_read_twice(tmp_path: Path) -> None:
    parts = KeyParts(tmp_path)
    parts.add([keys(0, 1, 0, 1)])
    pending = (tmp_path / "ledger-keys" / "pending.jsonl").read_bytes()
    parts.close()
    (tmp_path / "ledger-keys" / "pending.jsonl").write_bytes(pending)  # killed between publishing and beginning anew
    again = KeyParts(tmp_path)
    assert len(read_keys(tmp_path, [0])[0][0]) == 2
    again.add([keys(0, 1, 0, 1), keys(1, 1, 0, 1)])
    again.close()
    assert [len(spans[0]) for spans in read_keys(tmp_path, [0, 1]).values()] == [2, 2]
