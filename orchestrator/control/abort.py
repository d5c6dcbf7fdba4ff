"""The way out of a broken world: whatever a rank waits for there raises. Called by line.py when the node actor says so.

gloo waits for ever for a peer that is frozen or cut off, and cannot be told. Its connections are those that its own
epoll watches, beside the port it listens on: exactly these are cut, and those to the store and the vaults that the job
named. NCCL is aborted. Again and again until the rank is out, since it may only just be connecting. A rank that
computes, or waits for anything but other ranks, would go on with it: it is interrupted where it says that it may be."""

import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.control.jobs import RankJob, SnapshotStart
from orchestrator.core.errors import WorldLeft

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.16
KNOCK_TIMEOUT_S = 0.1
INTERRUPT = signal.SIGURG  # passed over by default; it ends waits of the main thread for locks, pauses and files
Peer = tuple[str, int]


class WayOut:
    """Of the job that a rank has now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: RankJob | None = None
        self._over = 0  # the newest generation that is to be left; heard of, maybe, before its job is begun
        self._is_interruptible = False  # the main thread
        self.was_taken = False  # in the job that the rank has, or had last

    def enter(self, job: RankJob) -> None:
        with self._lock:
            self._job, self.was_taken = job, False
            self._leave_what_is_over()

    def leave(self) -> None:
        """Nothing is cut any more when it returns."""
        with self._lock:
            self._job = None

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around work and waits of the main thread that may be broken off anywhere, since nothing of them outlives the
        job. Raises WorldLeft, at the latest when they are done."""
        signal.signal(INTERRUPT, self._interrupt)
        self._is_interruptible = True
        try:
            self.raise_if_taken()
            yield
        finally:
            self._is_interruptible = False
        self.raise_if_taken()

    def raise_if_taken(self) -> None:
        if self.was_taken:
            raise WorldLeft("this world is to be left")

    def _interrupt(self, *_: object) -> None:
        """In the main thread, between two of its instructions of Python."""
        if self._is_interruptible:
            self._is_interruptible = False  # once: it could strike who deals with the first one
            self.raise_if_taken()

    def take(self, generation: int) -> None:
        """Out of that one and of all before it, also where their jobs are still to be begun."""
        with self._lock:
            self._over = max(self._over, generation)
            self._leave_what_is_over()

    def _leave_what_is_over(self) -> None:
        if self._job is None or self._job.generation > self._over or self.was_taken:
            return
        self.was_taken = True
        threading.Thread(target=self._cut_until_out, args=(self._job,), name="abort", daemon=True).start()

    def _cut_until_out(self, job: RankJob) -> None:
        peers, aborted, knocked = _peers_of(job), set[Any](), set[int]()
        pause_s = FIRST_PAUSE_S
        while self._cut_once(job, peers, aborted, knocked if pause_s == LONGEST_PAUSE_S else None):
            time.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)  # on a busy machine it takes time from whoever gets out

    def _cut_once(self, job: RankJob, peers: set[Peer], aborted: set[Any], knocked: set[int] | None) -> bool:
        """Whether the rank is still in that job. `knocked`: given when cutting has not helped for a while."""
        with self._lock:
            if self._job is not job:
                return False
            if self._is_interruptible:
                signal.pthread_kill(threading.main_thread().ident or 0, INTERRUPT)
            cut_sockets(peers)
            if knocked is not None:
                knock_at_gloo(job.world.size, knocked)
            _abort_nccl(aborted)
            return True


def _peers_of(job: RankJob) -> set[Peer]:
    parts = job.start.parts if isinstance(job.start, SnapshotStart) else ()
    vaults = {at.vault for copies in parts for at in copies}
    return {(job.store_host, job.store_port), *((vault.host, vault.port) for vault in vaults)}


# ---- sockets ----


def cut_sockets(peers: Collection[Peer]) -> int:
    """Those of gloo and those to the peers; how many."""
    count = 0
    for handle in {*list_gloo_sockets(), *_list_sockets_to(peers)}:
        with suppress(OSError), _open_again(handle) as same:
            same.shutdown(socket.SHUT_RDWR)
            count += 1
    return count


def list_gloo_sockets() -> list[int]:
    """Descriptors of its connections, also of groups that are only being made."""
    return [one for watched, _ in _list_gloo() for one in watched if _peer_of(one) is not None]


def knock_at_gloo(size: int, knocked: set[int]) -> None:
    """Whoever waits for a peer to connect that died before it did has no connection yet that could be cut: it gets one,
    closed at once, for each of the numbers by which peers say whom they want. Once for each port: gloo keeps the
    others as long as it listens there."""
    for _, (host, port, *_) in _list_gloo():
        if port not in knocked:
            knocked.add(port)
            for number in range(size):
                with suppress(OSError), socket.create_connection((host, port), KNOCK_TIMEOUT_S) as peer:
                    peer.sendall(struct.pack("q", number))


def _list_gloo() -> Iterator[tuple[list[int], Any]]:
    """What each epoll of gloo's watches, and the address at which it listens."""
    for handle in _list_handles():
        if _target_of(handle) == "anon_inode:[eventpoll]":
            watched = list(_list_watched(handle))
            for one in watched:
                if (address := _listens_at(one)) is not None:
                    yield watched, address


def _list_sockets_to(peers: Collection[Peer]) -> Iterator[int]:
    for handle in _list_handles():
        if _target_of(handle).startswith("socket:") and _peer_of(handle) in peers:
            yield handle


def _list_handles() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 (Path.iterdir opens one more)


def _target_of(handle: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115 (no file)
    except OSError:  # closed meanwhile
        return ""


def _list_watched(epoll: int) -> Iterator[int]:
    with suppress(OSError), Path(f"/proc/self/fdinfo/{epoll}").open() as lines:
        for line in lines:
            if line.startswith("tfd:"):
                yield int(line.split()[1])


def _listens_at(handle: int) -> Any:
    """Its address; None where it does not listen."""
    try:
        with _open_again(handle) as same:
            return same.getsockname() if same.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else None
    except OSError:  # no socket
        return None


def _peer_of(handle: int) -> Peer | None:
    """The other end of a TCP connection."""
    try:
        with _open_again(handle) as same:
            if same.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            host, port = same.getpeername()[:2]
            return host.removeprefix("::ffff:"), port
    except OSError:  # no socket, or not connected
        return None


def _open_again(handle: int) -> socket.socket:
    """The same socket behind another descriptor, which can be closed."""
    copy = os.dup(handle)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


# ---- NCCL ----


def _abort_nccl(aborted: set[Any]) -> None:
    """All its groups that have not been aborted, the newest first, as one: else they could wait for each other."""
    if "torch.distributed" not in sys.modules:
        return
    import torch
    from torch.distributed import distributed_c10d

    if torch.cuda._initialized:
        backends = [backend for group in distributed_c10d._world.pg_map if (backend := _nccl_of(group)) is not None]
        fresh = [backend for backend in reversed(backends) if backend not in aborted]
        aborted.update(fresh)
        if fresh:
            fresh[0]._group_start()
            for backend in fresh:
                backend.abort()
            fresh[0]._group_end()


def _nccl_of(group: Any) -> Any:
    import torch

    try:
        return group._get_backend(torch.device("cuda"))
    except RuntimeError:  # a group of gloo alone
        return None
