"""The destination: going on after an interruption, and everything that must not be mixed up with it."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import BadInput, DataError
from orchestrator.importing import pack
from orchestrator.importing.inputs import find_inputs
from orchestrator.importing.run import import_data
from orchestrator.importing.wish import Wish
from tests.fakes.imports import read_members, read_shard_files, run_import, write_rows, write_text_rows
from tests.fakes.shards import run_backwards

SMALL = {"text": "text", "key": "id", "shard_bytes": 8192}


class Killed(Exception):
    pass


def stop_after(count: int) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    """A command that is killed when `count` jobs are done."""

    def run_all(function: Callable[[Any], Any], jobs: Iterable[Any], /) -> Iterator[Any]:
        for done, job in enumerate(jobs):
            if done == count:
                raise Killed
            yield function(job)

    return run_all


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_text_rows(tmp_path / "a.jsonl", 300)


def test_jobs_in_any_order_and_repeated_give_the_same_bytes(tmp_path: Path, source: Path) -> None:
    run_import(source, tmp_path / "one", **SMALL)
    run_import(source, tmp_path / "two", run_all=run_backwards, **SMALL)
    assert read_shard_files(tmp_path / "one") == read_shard_files(tmp_path / "two")
    assert len(read_shard_files(tmp_path / "one")) > 20


def test_an_interrupted_import_goes_on_and_gives_the_same_bytes(tmp_path: Path, source: Path) -> None:
    whole = run_import(source, tmp_path / "whole", **SMALL)
    for count in (0, 1, 2):
        with pytest.raises(Killed):
            run_import(source, tmp_path / "out", run_all=stop_after(count), **SMALL)
        assert read_shard_files(tmp_path / "out") == {}
    done: list[tuple[int, int]] = []
    found = find_inputs([str(source)], None)
    progress = lambda stage, now, total: done.append((now, total))  # noqa: E731
    report = import_data(found, Wish(name="s", **SMALL), tmp_path / "out", progress=progress)  # type: ignore[arg-type]
    assert done[0] == (3, done[0][1])
    assert done[-1] == (done[0][1], done[0][1])
    assert report == whole
    assert read_shard_files(tmp_path / "out") == read_shard_files(tmp_path / "whole")


def test_an_import_that_stopped_while_moving_shards_goes_on(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_import(source, tmp_path / "whole", **SMALL)
    moved: list[Path] = []
    replace = Path.replace

    def replace_a_few(path: Path, target: Path) -> Path:
        if path.parent.name == "parts" and target.parent == tmp_path / "out":
            moved.append(target)
            if len(moved) == 5:
                raise Killed
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_a_few)
        with pytest.raises(Killed):
            run_import(source, tmp_path / "out", **SMALL)
    assert len(read_shard_files(tmp_path / "out")) == 4
    run_import(source, tmp_path / "out", **SMALL)
    assert read_shard_files(tmp_path / "out") == read_shard_files(tmp_path / "whole")


@pytest.mark.parametrize("complete", [False, True])
def test_what_killed_imports_were_writing_goes(tmp_path: Path, complete: bool) -> None:
    """Every name under which something is written before it is renamed into place."""
    for name in "ab":
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "0.png").write_bytes(b"picture")
    out, state = tmp_path / "out", tmp_path / "out" / ".import"
    with pytest.raises(Killed):
        run_import(tmp_path / "in", out, run_all=stop_after(0))
    if complete:
        run_import(tmp_path / "in", out)
    else:
        (state / "done").mkdir()
    whole = [state / name for name in ("import.json", "inputs.arrow", "report.json")] + [out / "classes.json"]
    whole += [] if complete else [state / "done" / "000000.json", state / "parts" / "000000"]
    for path in whole:
        path.with_name(f".{path.name}.00ff.part").write_bytes(b"half")
    with contextlib.suppress(Killed):
        run_import(tmp_path / "in", out, run_all=stop_after(0))
    assert not list(out.rglob("*.part"))


def test_a_hidden_file_that_is_not_of_the_import_stays(tmp_path: Path, source: Path) -> None:
    run_import(source, tmp_path / "out", **SMALL)
    (tmp_path / "out" / ".mine.part").write_bytes(b"mine")
    run_import(source, tmp_path / "out", **SMALL)
    assert (tmp_path / "out" / ".mine.part").read_bytes() == b"mine"


def test_a_complete_import_opens_nothing_again(tmp_path: Path, source: Path) -> None:
    first = run_import(source, tmp_path / "out", **SMALL)
    assert run_import(source, tmp_path / "out", run_all=stop_after(0), **SMALL) == first
    left = {path.name for path in (tmp_path / "out" / ".import").iterdir()}
    assert left == {"import.json", "inputs.arrow", "report.json", "lock"}


def test_the_report_says_what_each_shard_was_made_of(tmp_path: Path) -> None:
    for name in "ab":
        write_text_rows(tmp_path / "in" / f"{name}.jsonl", 5)
    run_import(tmp_path / "in", tmp_path / "out", text="text")
    [shard] = json.loads((tmp_path / "out" / ".import" / "report.json").read_text())["shards"]
    assert shard["of"] == f"{tmp_path}/in/a.jsonl to {tmp_path}/in/b.jsonl"
    assert (shard["name"], shard["samples"]) == ("s-000000.tar", 10)


@pytest.mark.parametrize("stopped", [True, False])
def test_other_options_over_an_import_are_refused(tmp_path: Path, source: Path, stopped: bool) -> None:
    begin_import(source, tmp_path / "out", stopped)
    with pytest.raises(BadInput, match="shard_bytes was 8192, is 9000") as caught:
        run_import(source, tmp_path / "out", **{**SMALL, "shard_bytes": 9000})
    assert f"delete {tmp_path}/out" in caught.value.remedy


@pytest.mark.parametrize("stopped", [True, False])
def test_a_changed_input_over_an_import_is_refused(tmp_path: Path, source: Path, stopped: bool) -> None:
    begin_import(source, tmp_path / "out", stopped)
    source.write_text(source.read_text() + '{"id": "more", "text": "x"}\n')
    with pytest.raises(BadInput, match=r"a\.jsonl has changed"):
        run_import(source, tmp_path / "out", **SMALL)


def test_inputs_that_came_or_went_are_named(tmp_path: Path) -> None:
    for name in "ab":
        write_text_rows(tmp_path / "in" / f"{name}.jsonl", 5)
    run_import(tmp_path / "in", tmp_path / "out", text="text")
    (tmp_path / "in" / "a.jsonl").rename(tmp_path / "in" / "c.jsonl")
    with pytest.raises(BadInput, match=r"a\.jsonl is gone; \S+/c\.jsonl was not there"):
        run_import(tmp_path / "in", tmp_path / "out", text="text")


def begin_import(source: Path, folder: Path, stopped: bool) -> None:
    if stopped:
        with pytest.raises(Killed):
            run_import(source, folder, run_all=stop_after(1), **SMALL)
    else:
        run_import(source, folder, **SMALL)


def test_options_may_change_before_anything_is_done(tmp_path: Path, source: Path) -> None:
    with pytest.raises(DataError, match="has no field body"):
        run_import(source, tmp_path / "out", text="body")
    run_import(source, tmp_path / "out", text="text")
    assert len(read_members(tmp_path / "out")) == 600


def test_an_import_that_met_bad_input_goes_on_with_skip(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": "x" * 500} for i in range(100)]
    del rows[90]["text"]
    source = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="has no field text"):
        run_import(source, tmp_path / "out", **SMALL)
    report = run_import(source, tmp_path / "out", on_bad="skip", **SMALL)
    assert report.samples == 99


def test_a_destination_with_other_files_is_refused_and_left_alone(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("mine")
    with pytest.raises(DataError, match=r"holds thesis\.doc already"):
        run_import(source, tmp_path / "out", **SMALL)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.doc"]


def test_a_destination_that_is_a_file_is_refused(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is no folder"):
        run_import(source, tmp_path / "file", **SMALL)


@pytest.mark.parametrize("below", ["in/out", "in", "in/deep/er"])
def test_a_destination_inside_a_source_is_refused(tmp_path: Path, below: str) -> None:
    write_text_rows(tmp_path / "in" / "a.jsonl", 5)
    with pytest.raises(BadInput, match="lies inside the source"):
        run_import(tmp_path / "in", tmp_path / below, text="text")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.jsonl"]


def test_two_imports_into_one_folder_are_refused(tmp_path: Path, source: Path) -> None:
    with pytest.raises(Killed):
        run_import(source, tmp_path / "out", run_all=stop_after(1), **SMALL)
    with (tmp_path / "out" / ".import" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another import into this folder is under way"):
            run_import(source, tmp_path / "out", **SMALL)
    assert run_import(source, tmp_path / "out", **SMALL).samples == 300


def test_a_shard_that_was_removed_later_is_missed(tmp_path: Path, source: Path) -> None:
    run_import(source, tmp_path / "out", **SMALL)
    (tmp_path / "out" / "s-000003.tar").unlink()
    with pytest.raises(DataError, match="is not there as it was") as caught:
        run_import(source, tmp_path / "out", **SMALL)
    assert "s-000003.tar" in caught.value.where


def test_a_full_disk_is_named_and_what_is_done_stays(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_import(source, tmp_path / "whole", **SMALL)
    flushed: list[int] = []

    def flush_a_few(handle: int) -> None:
        flushed.append(handle)
        if len(flushed) > 20:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pack.os, "fsync", flush_a_few)
        with pytest.raises(DataError, match="No space left on device") as caught:
            run_import(source, tmp_path / "out", **SMALL)
    assert "goes on where it stopped" in caught.value.remedy
    assert not list((tmp_path / "out").rglob("*.part"))
    assert list((tmp_path / "out" / ".import" / "done").iterdir())
    run_import(source, tmp_path / "out", **SMALL)
    assert read_shard_files(tmp_path / "out") == read_shard_files(tmp_path / "whole")


def test_an_input_that_changes_while_it_is_read_is_refused(tmp_path: Path, source: Path) -> None:
    found = find_inputs([str(source)], None)
    os.utime(source, ns=(1, 1))
    with pytest.raises(DataError, match="has changed or gone"):
        import_data(found, Wish(name="s", **SMALL), tmp_path / "out")  # type: ignore[arg-type]


def test_inputs_without_a_sample_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no sample is left") as caught:
        run_import(tmp_path / "a.jsonl", tmp_path / "out")
    assert "2 x blank line" in caught.value.remedy


def test_kinds_are_not_mixed_unless_one_is_chosen(tmp_path: Path) -> None:
    write_text_rows(tmp_path / "in" / "a.jsonl", 5)
    (tmp_path / "in" / "b.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match="hold 1 jsonl, 1 parquet") as caught:
        run_import(tmp_path / "in", tmp_path / "out")
    assert "--from" in caught.value.remedy
    assert run_import(tmp_path / "in", tmp_path / "out", kind="jsonl").left_out.counts == {
        "file of another kind by its name": 1
    }


def test_a_file_without_a_telling_name_needs_from(tmp_path: Path) -> None:
    source = write_text_rows(tmp_path / "data.txt", 5)
    with pytest.raises(DataError, match="does not say what it is"):
        run_import(source, tmp_path / "out")
    assert run_import(source, tmp_path / "out", kind="jsonl").samples == 5


@pytest.mark.parametrize("source", ["s3://bucket/a.jsonl", "nowhere.jsonl", "pipe:cat x"])
def test_sources_that_cannot_be_read_are_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError) as caught:
        find_inputs([source], None)
    assert source in caught.value.where
    assert caught.value.remedy
