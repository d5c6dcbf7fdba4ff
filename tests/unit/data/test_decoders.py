import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from orchestrator.config.reading import FieldSection, TransformSection
from orchestrator.core.errors import TrainingFailed
from orchestrator.data.decoding.fields import Decoding, TransformFailed
from orchestrator.data.decoding.workers import OwnProcess, WorkerProcesses

KEYS = np.arange(3, dtype=np.uint64)
MEMBERS = {"label": (["cls"] * 3, [b"1", b"no number", memoryview(b"3")])}


def decoding(*transforms):
    fields = {"label": FieldSection(members=["cls"], decode="int")}
    steps = [TransformSection(name=f"tests.fakes.array_steps.{name}", args=args) for name, args in transforms]
    return Decoding(fields, steps)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def shared_memory():
    """What Python's multiprocessing leaves when it is killed."""
    return {file for file in Path("/dev/shm").iterdir() if file.name.startswith(("psm_", "sem."))}


def test_a_worker_decodes_what_this_process_would():
    workers, own = WorkerProcesses(decoding(), 1), OwnProcess(decoding())
    for _ in range(2):
        apart, here = workers.decode(MEMBERS, KEYS), own.decode(MEMBERS, KEYS)
        assert apart[:2] == here[:2]
        assert apart.columns == {"label": [1, None, 3]}
        assert apart.seconds > 0
    workers.close()


def test_what_is_raised_in_a_worker_arrives_whole_and_the_worker_lives_on():
    workers = WorkerProcesses(decoding(("refuse_label", {"label": 3})), 1)
    for _ in range(2):
        with pytest.raises(TransformFailed, match="label 3 is not wanted") as caught:
            workers.decode(MEMBERS, KEYS)
        assert caught.value.row == 2
        assert "raise ValueError" in caught.value.__notes__[0]
    assert workers.decode({"label": (["cls"], [b"1"])}, KEYS[:1]).columns == {"label": [1]}
    workers.close()


def test_a_worker_that_dies_is_an_error_and_no_wait():
    workers = WorkerProcesses(decoding(("die", {})), 1)
    with pytest.raises(TrainingFailed, match="ended with status -9"):
        workers.decode(MEMBERS, KEYS)
    workers.close()


def test_values_that_cannot_travel_are_an_error_of_the_worker():
    workers = WorkerProcesses(decoding(("return_what_cannot_travel", {})), 1)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)) as caught:
        workers.decode(MEMBERS, KEYS)
    assert "In a decoding process" in caught.value.__notes__[0]
    workers.close()


def test_closing_leaves_no_process():
    workers = WorkerProcesses(decoding(), 2)
    workers.decode(MEMBERS, KEYS)
    assert len(multiprocessing.active_children()) == 2
    workers.close()
    assert multiprocessing.active_children() == []


def test_closing_does_not_wait_for_a_sample_that_takes_for_ever():
    workers = WorkerProcesses(decoding(("take_for_ever", {})), 2)
    thread = threading.Thread(target=give_up, args=(workers,), daemon=True)
    thread.start()
    wait_until(lambda: workers._idle.qsize() == 1)
    began = time.monotonic()
    workers.close()
    assert time.monotonic() - began < 2.0
    assert multiprocessing.active_children() == []
    thread.join(10)


def test_closing_waits_for_a_thread_that_is_about_to_note_how_a_process_died(monkeypatch):
    reaped, waitpid = threading.Event(), os.waitpid

    def wait_slowly(pid, flags):
        found = waitpid(pid, flags)
        if found[0] == pid:
            reaped.set()
            time.sleep(0.3)  # until then nobody knows but who has waited
        return found

    workers = WorkerProcesses(decoding(("take_for_ever", {})), 1)
    pid = workers._workers[0]._process.pid
    monkeypatch.setattr(os, "waitpid", wait_slowly)
    thread = threading.Thread(target=give_up, args=(workers,), daemon=True)
    thread.start()
    wait_until(workers._idle.empty)
    os.kill(pid, signal.SIGKILL)
    assert reaped.wait(10)
    workers.close()
    thread.join(10)


def give_up(workers):
    with contextlib.suppress(TrainingFailed, OSError, ValueError, TypeError):  # as it is closed under its hands
        workers.decode(MEMBERS, KEYS)


OWNER = """
from threading import Thread
from tests.unit.data.test_decoders import KEYS, MEMBERS, decoding
from orchestrator.data.decoding.workers import WorkerProcesses

if __name__ == "__main__":
    idle = WorkerProcesses(decoding(), 1)
    idle.decode(MEMBERS, KEYS)
    busy = WorkerProcesses(decoding(("take_for_ever", {})), 1)
    thread = Thread(target=busy.decode, args=(MEMBERS, KEYS))
    thread.start()
    print("ready", flush=True)
    thread.join()
"""


def test_workers_of_a_killed_process_end_and_leave_nothing(tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    before = shared_memory()
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) >= 2
        owner.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    wait_until(lambda: shared_memory() <= before)  # another test beside this one may just be using some
