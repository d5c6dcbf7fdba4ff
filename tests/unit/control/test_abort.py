"""The way out of a world, with real gloo: peers that are frozen, peers that never come, and sockets of others."""

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed import TCPStore

from orchestrator.control.abort import WayOut, list_gloo_sockets
from orchestrator.control.jobs import RankJob
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import WorldLeft
from orchestrator.storage.retry import Retry
from tests.fakes.gang import run_gang
from tests.fakes.rank_processes import job_of

TIMEOUT_S = 60.0  # of gloo: what is freed earlier was cut
SOON_S = 5.0


def job_on(port: int) -> RankJob:
    return replace(job_of("step", 3, 0, 2), store_port=port)


def raises_soon(work: Callable[[], Any], way_out: WayOut, job: RankJob) -> str:
    """What it raises once the way out is taken, which is asked for while it waits."""
    way_out.enter(job)
    timer = threading.Timer(0.2, way_out.take, (3,))
    timer.start()
    began = time.monotonic()
    try:
        work()
    except RuntimeError as error:
        return str(error) if time.monotonic() - began < SOON_S else "too late"
    finally:
        way_out.leave()
    return "nothing"


@contextmanager
def bystanders() -> Iterator[list[int]]:
    """Connections of this process that are nobody's business; how much they carry in the end."""
    carried: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        with ours, theirs:
            yield carried
            ours.sendall(b"still there")
            carried.append(len(theirs.recv(100)))


def wait_for_the_frozen(rank: int, size: int, store: Any) -> dict[str, Any]:
    """Rank 1 freezes, rank 0 gets out of an all-reduce with it, and of joining a world that nobody else joins."""
    if rank == 0:
        server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        store.set("port", str(server.port))
    port = int(store.get("port"))
    meeting = open_meeting(port)
    distributed.init_process_group("gloo", store=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=TIMEOUT_S))
    both = distributed.new_group(backend="gloo")
    if rank == 1:
        store.set("frozen", str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        return {}
    frozen = int(store.get("frozen"))
    way_out, found = WayOut(), {"sockets": len(list_gloo_sockets())}
    with bystanders() as carried:
        reducing = raises_soon(lambda: distributed.all_reduce(torch.ones(3), group=both), way_out, job_on(port))
        distributed.destroy_process_group()
        again = torch.distributed.PrefixStore("again", open_meeting(port))
        joining = raises_soon(lambda: join_alone(again), way_out, job_on(port))
    os.kill(frozen, signal.SIGCONT)
    left = len(list_gloo_sockets())
    return found | {"reducing": reducing, "joining": joining, "carried": carried, "left": left}


def open_meeting(port: int) -> TCPStore:
    return TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=TIMEOUT_S))


def join_alone(store: Any) -> None:
    distributed.init_process_group("gloo", store=store, rank=0, world_size=2, timeout=timedelta(seconds=TIMEOUT_S))


def test_who_waits_for_a_frozen_or_missing_rank_gets_out() -> None:
    found, _ = run_gang(2, wait_for_the_frozen)
    assert found["sockets"] > 0
    assert "Connection closed by peer" in found["reducing"]
    assert any(cut in found["joining"] for cut in ("got 0 bytes", "Broken pipe"))  # while it reads, or still writes
    assert found["carried"] == [len(b"still there")]
    assert found["left"] == 0


class HalfStore(distributed.Store):
    """Of a rank that publishes where it is, and does not come any further."""

    def __init__(self, real: Any) -> None:
        super().__init__()
        self._real = real
        self.published, self.over = threading.Event(), threading.Event()

    def set(self, key: str, value: Any) -> None:
        self._real.set(key, value)

    def wait(self, *_: Any) -> None:
        self.published.set()
        self.over.wait(TIMEOUT_S)
        raise RuntimeError("it never came")


def wait_for_who_never_connects(rank: int, size: int, store: Any) -> list[float]:
    """Seconds until rank 0 of each of some worlds was out. Which of two ranks connects to the other is chance."""
    server, took_s = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False), []
    for number in range(6):
        meetings = [distributed.PrefixStore(str(number), open_meeting(server.port)) for _ in range(2)]
        half, way_out = HalfStore(meetings[1]), WayOut()
        peer = threading.Thread(target=join_in_vain, args=(half, 1))
        peer.start()
        assert half.published.wait(TIMEOUT_S)
        way_out.enter(job_on(server.port))
        threading.Timer(0.2, way_out.take, (3,)).start()
        began = time.monotonic()
        join_in_vain(meetings[0], 0)
        took_s.append(time.monotonic() - began)
        way_out.leave()
        half.over.set()
        peer.join()
    return took_s


def join_in_vain(store: Any, rank: int) -> None:
    with suppress(RuntimeError):
        distributed.ProcessGroupGloo(store, rank, 2, timedelta(seconds=TIMEOUT_S))


def test_who_waits_for_a_rank_that_died_before_it_connected_gets_out() -> None:
    [took_s] = run_gang(1, wait_for_who_never_connects)
    assert max(took_s) < SOON_S


def test_nothing_is_cut_for_an_earlier_generation_nor_after_the_job() -> None:
    with socket.create_server(("127.0.0.1", 0)) as store:
        job = job_on(store.getsockname()[1])  # of generation 3
        with socket.create_connection(store.getsockname()) as ours:
            theirs, _ = store.accept()
            way_out = WayOut()
            way_out.enter(job)
            way_out.take(2)
            assert not way_out.was_taken
            way_out.leave()
            way_out.take(3)
            ours.sendall(b"x")
            assert theirs.recv(1) == b"x"
            way_out.enter(job)
            assert theirs.recv(1) == b""
            way_out.leave()
            theirs.close()


def test_a_world_that_is_over_before_its_job_is_begun_is_left_and_the_next_one_is_not() -> None:
    way_out = WayOut()
    way_out.enter(job_of("step", 3, 0, 1))
    way_out.take(4)
    way_out.leave()
    way_out.enter(job_of("step", 4, 0, 1))
    assert way_out.was_taken
    way_out.leave()
    way_out.enter(job_of("step", 5, 0, 1))
    assert not way_out.was_taken
    way_out.leave()


# ---- work ----


def compute_for(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass
    raise AssertionError("it went on")


def test_work_that_may_be_interrupted_is_broken_off_at_once() -> None:
    way_out = WayOut()
    way_out.enter(job_of("step", 3, 0, 1))
    threading.Timer(0.05, way_out.take, args=(3,)).start()
    with pytest.raises(WorldLeft), way_out.interruptible():
        compute_for(20.0)
    way_out.leave()


WAITS: dict[str, Callable[[], Any]] = {
    "answers": lambda: queue.SimpleQueue[int]().get(timeout=TIMEOUT_S),
    "batch": lambda: Future[int]().exception(TIMEOUT_S),
    "pause": lambda: time.sleep(TIMEOUT_S),
    "store": lambda: Retry("s3://bucket", TIMEOUT_S, SystemClock()).call("object", lambda: time.sleep(TIMEOUT_S)),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_that_may_be_interrupted_is_over_at_once(wait: str) -> None:
    way_out = WayOut()
    way_out.enter(job_of("step", 3, 0, 1))
    taking = threading.Timer(0.05, way_out.take, args=(3,))
    taking.start()
    began = time.monotonic()
    with pytest.raises(WorldLeft), way_out.interruptible():
        WAITS[wait]()
    assert time.monotonic() - began < 1.0
    way_out.leave()


def test_work_in_a_world_that_is_to_be_left_is_not_begun() -> None:
    way_out = WayOut()
    way_out.enter(job_of("step", 3, 0, 1))
    way_out.take(3)
    with pytest.raises(WorldLeft), way_out.interruptible():
        raise AssertionError("it was begun")
    way_out.leave()


@pytest.mark.parametrize("attempt", range(20))
def test_what_comes_after_the_work_is_never_interrupted(attempt: int) -> None:
    """The abort comes at any moment of it, also when it has just ended."""
    way_out = WayOut()
    way_out.enter(job_of("step", 1, 0, 1))
    taking = threading.Timer(0.0005 * attempt, way_out.take, args=(1,))
    taking.start()
    try:
        for _ in range(3000):
            with way_out.interruptible():
                sum(range(20))
    except WorldLeft:
        pass
    taking.join()
    way_out.leave()
    for _ in range(1000):
        sum(range(20))
