"""Worker processes: the same result as without them, errors that arrive whole, and nobody left behind."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.core.errors import DataError, LonghaulError
from orchestrator.importing.workers import worker_processes
from tests.fakes.imports import read_shard_files, run_import, write_rows, write_text_rows


def square(number: int) -> int:
    return number * number


def end_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wait_long(seconds: int) -> int:
    time.sleep(seconds)
    return seconds


def is_deaf(_: int) -> bool:
    """To Ctrl-C."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_do_not_hear_ctrl_c_and_the_command_does() -> None:
    with worker_processes(2) as run_all:
        assert list(run_all(is_deaf, range(20))) == [True] * 20
        assert not is_deaf(0)


def test_every_job_is_run_once_and_no_process_stays(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with worker_processes(2) as run_all:
        assert sorted(run_all(square, iter(range(50)))) == [n * n for n in range(50)]
    new = [one for one in psutil.Process().children(recursive=True) if one not in before]
    assert not [one for one in new if "resource_tracker" not in " ".join(one.cmdline())]


def test_workers_give_the_bytes_that_one_process_gives(tmp_path: Path) -> None:
    source = write_text_rows(tmp_path / "a.jsonl", 200)
    run_import(source, tmp_path / "one", text="text", shard_bytes=8192)
    with worker_processes(2) as run_all:
        run_import(source, tmp_path / "two", text="text", shard_bytes=8192, run_all=run_all)
    assert read_shard_files(tmp_path / "one") == read_shard_files(tmp_path / "two")


def test_an_error_of_a_worker_names_the_line(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"text": "x"}, {"body": "x"}])
    with pytest.raises(DataError, match="has no field text") as caught, worker_processes(2) as run_all:
        run_import(source, tmp_path / "out", text="text", run_all=run_all)
    assert f"{source}, line 2" in caught.value.where


def test_a_killed_worker_is_told_with_the_way_out() -> None:
    with pytest.raises(LonghaulError, match="worker process was killed") as caught, worker_processes(2) as run_all:
        list(run_all(end_at_three, range(6)))
    assert "--workers" in caught.value.remedy


def interrupt_once_running() -> None:
    with worker_processes(2) as run_all:
        next(run_all(wait_long, [0, 60, 60]))
        raise KeyboardInterrupt


def test_an_interruption_does_not_wait_for_what_is_under_way() -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupt_once_running()
    assert time.monotonic() - begun < 20
