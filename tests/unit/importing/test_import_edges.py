"""Importing at its edges: lines that begin where a file is cut, shards that are just full, what is asked for twice."""

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import BadInput, DataError
from orchestrator.core.mapping import run_serially
from orchestrator.importing.workers import worker_processes
from tests.fakes.imports import read_members, read_shards, run_import, write_rows, write_text_rows


def test_a_line_that_begins_where_the_file_is_cut_is_read_once(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"k{i:03d}", "text": "x"}).ljust(127) + "\n" for i in range(100)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    report = run_import(tmp_path / "a.jsonl", tmp_path / "out", text="text", key="id", shard_bytes=32 * 128)
    assert report.shards > 3
    assert list(read_members(tmp_path / "out")) == [f"k{i:03d}.txt" for i in range(100)]


def test_a_bad_line_far_into_a_file_is_counted_rightly(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": "x" * 100_000} for _ in range(60)]
    rows[24] = {"body": "x"}
    source = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="has no field text") as caught:
        run_import(source, tmp_path / "out", text="text")
    assert caught.value.where.endswith("a.jsonl, line 25")


def test_the_end_mark_counts_as_a_part_of_the_shard(tmp_path: Path) -> None:
    sample_bytes = 512 + 1024  # header and text
    source = write_rows(tmp_path / "a.jsonl", [{"text": "x" * 1024} for _ in range(7)])
    run_import(source, tmp_path / "out", text="text", shard_bytes=4 * sample_bytes)
    assert [len(shard) for shard in read_shards(tmp_path / "out").values()] == [3, 3, 1]
    assert all(path.stat().st_size <= 4 * sample_bytes for path in (tmp_path / "out").glob("*.tar"))


def test_only_a_name_that_is_too_long_for_a_plain_header_has_one_of_pax(tmp_path: Path) -> None:
    names = ["short", "long" * 60]
    source = write_rows(tmp_path / "a.jsonl", [{"id": name, "text": "x"} for name in names])
    run_import(source, tmp_path / "out", text="text", key="id")
    with tarfile.open(tmp_path / "out" / "s-000000.tar") as tar:
        short, long = tar.getmembers()
    assert (short.pax_headers, long.pax_headers) == ({}, {"path": f"{names[1]}.txt"})


def test_a_key_is_measured_in_bytes(tmp_path: Path) -> None:
    rows = [{"id": key, "text": "x"} for key in ("é" * 512, "é" * 513)]
    source = write_rows(tmp_path / "a.jsonl", rows)
    report = run_import(source, tmp_path / "out", text="text", key="id", on_bad="skip")
    assert report.left_out.counts == {"key is longer than 1024 bytes": 1}
    assert list(read_members(tmp_path / "out")) == ["é" * 512 + ".txt"]


def test_an_object_that_has_bytes_among_other_things_is_no_file_of_a_table(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"id": "a", "image": {"bytes": 3, "width": 7}}])
    run_import(source, tmp_path / "out", key="id", members=(("image.json", "image"),))
    assert read_members(tmp_path / "out") == {"a.image.json": b'{"bytes": 3, "width": 7}'}


def test_a_file_is_not_found_again_by_a_link_to_its_folder(tmp_path: Path) -> None:
    write_text_rows(tmp_path / "in" / "a.jsonl", 5)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert run_import(tmp_path / "in", tmp_path / "out", text="text").samples == 5


def test_a_shard_that_was_cut_later_is_missed(tmp_path: Path) -> None:
    source = write_text_rows(tmp_path / "a.jsonl", 20)
    run_import(source, tmp_path / "out", text="text")
    shard = tmp_path / "out" / "s-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DataError, match="is not there as it was"):
        run_import(source, tmp_path / "out", text="text")


def test_what_was_made_with_skip_is_not_taken_for_flawless(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"text": "x"}, {"body": "x"}])
    run_import(source, tmp_path / "out", text="text", on_bad="skip")
    with pytest.raises(BadInput, match="on_bad was 'skip', is 'fail'"):
        run_import(source, tmp_path / "out", text="text", on_bad="fail")


def test_sources_in_another_order_are_other_inputs(tmp_path: Path) -> None:
    sources = [write_text_rows(tmp_path / name, 5) for name in ("a.jsonl", "b.jsonl")]
    run_import(sources, tmp_path / "out", text="text")
    with pytest.raises(BadInput, match="their order is another"):
        run_import(reversed(sources), tmp_path / "out", text="text")


def test_an_import_keeps_others_out_while_it_is_at_work(tmp_path: Path) -> None:
    source = write_text_rows(tmp_path / "a.jsonl", 20)

    def run_another(function: Callable[[Any], Any], jobs: Iterable[Any], /) -> Iterator[Any]:
        with pytest.raises(BadInput, match="another import into this folder is under way"):
            run_import(source, tmp_path / "out", text="text")
        return run_serially(function, jobs)

    assert run_import(source, tmp_path / "out", text="text", run_all=run_another).samples == 20


def test_workers_are_handed_a_few_jobs_at_a_time() -> None:
    handed: list[int] = []

    def draw_jobs() -> Iterator[int]:
        for number in range(40):
            handed.append(number)
            yield number

    with worker_processes(2) as run_all:
        for done, _ in enumerate(run_all(abs, draw_jobs())):
            assert len(handed) <= done + 4
    assert len(handed) == 40
