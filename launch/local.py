"""A Ray of this run's own, on this machine. A keeper process owns it: the run outlives the command that started it, and
Ray ends with the run, or with the command while there is no run yet.

Protected by a token of its own, own ports, own temporary directory."""

import argparse
import contextlib
import fcntl
import importlib.util
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import psutil

from launch.checks.limits import count_processors, read_limits
from orchestrator.control.nursery import NurseryAddress, start_nursery
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import ClusterError
from orchestrator.tracking.rundir import RunDir

_PREFIX, _LOCK = "longhaul-", "keeper.lock"
_POLL_S = 0.1
_START_TIMEOUT_S = 60.0
_LONGEST_TEMP = 16  # Ray puts Unix sockets below it, whose paths are limited to 107 bytes


@dataclass(frozen=True, slots=True)
class LocalRay:
    address: str
    keeper: subprocess.Popen[bytes]
    log: IO[bytes]  # what Ray says while starting; a file without a name

    def wait_until_up(self) -> None:
        host, port = self.address.split(":")
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self.keeper.poll() is None:
            try:
                socket.create_connection((host, int(port)), timeout=1.0).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        self.log.seek(0)
        said = self.log.read().decode(errors="replace")[-2000:]
        raise ClusterError(f"Ray did not start on this machine:\n{said}", where="cluster.address=local")

    def stop(self) -> None:
        """End Ray and wait until it is gone."""
        if self.keeper.poll() is None:
            self.keeper.terminate()
        self.keeper.wait()


def start_local_ray(run: Path, least_cpus: int, device: str | None, env: Mapping[str, str]) -> LocalRay:
    """Start the keeper and return at once; Ray needs some seconds to be up. `device`: that of a nursery for ranks."""
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=own_token(), RAY_DISABLE_USAGE_STATS="1")
    if device is not None:
        os.environ.update(NurseryAddress.invent(device).as_environment())
    base = Path(tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST_TEMP else "/tmp")
    sweep_leftovers(base)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    port, client_port = _free_ports(2)
    cpus = max(count_processors(read_limits()), least_cpus)
    arguments = {
        "folder": folder, "port": port, "client-port": client_port, "cpus": cpus,
        "owner": os.getpid(), "run": run, "env": json.dumps(dict(env)),
    }  # fmt: skip
    command = [sys.executable, "-m", "launch.local", *(f"--{key}={value}" for key, value in arguments.items())]
    log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (kept for whoever waits for Ray)
    keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return LocalRay(f"127.0.0.1:{port}", keeper, log)


@cache
def own_token() -> str:
    """One for all local Rays of this process, which may start several one after another: Ray reads it only once."""
    return secrets.token_hex(32)


def sweep_leftovers(base: Path) -> None:
    """Folders of keepers that were killed; a keeper that lives holds a lock on its own."""
    for folder in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def keep(folder: Path, port: int, client_port: int, cpus: int, owner: int, run: Path, env: str) -> None:
    """The keeper: Ray lives while its owner or its run does. The nursery imports while Ray is starting."""
    lock = (folder / f"{_LOCK}.part").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / f"{_LOCK}.part").rename(folder / _LOCK)  # no sweeper ever sees it without its lock
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={port}",
        "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0", "--include-dashboard=false",
        "--include-log-monitor=false", "--no-monitor", f"--num-cpus={cpus}", f"--temp-dir={folder / 'ray'}",
    ]  # fmt: skip
    if importlib.util.find_spec("grpc"):  # then Ray opens a port for its client protocol, asked or not
        command.append(f"--ray-client-server-port={client_port}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    address = NurseryAddress.inherited()
    nursery = start_nursery(address, None, json.loads(env)) if address is not None else None
    ray = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        _wait_for_one_to_end([ray.pid, owner])
        while ray.poll() is None and _is_active(RunDir(run)):
            time.sleep(_POLL_S)
    finally:
        _end_tree(ray)
        if nursery is not None:
            nursery.kill()
            nursery.wait()
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _wait_for_one_to_end(pids: Iterable[int]) -> None:
    with contextlib.ExitStack() as stack, contextlib.suppress(ProcessLookupError):  # it has ended
        handles = [os.pidfd_open(pid) for pid in pids]
        for handle in handles:
            stack.callback(os.close, handle)
        select.select(handles, [], [])


def _is_active(run: RunDir) -> bool:
    if not run.lease.exists():
        return False
    view = run.view()
    return not view.state.ended and not view.lost(SystemClock())


def _end_tree(ray: subprocess.Popen[bytes]) -> None:
    """Ask Ray to end, then make sure of every process it started."""
    family = [] if ray.poll() is not None else psutil.Process(ray.pid).children(recursive=True)
    if ray.poll() is None:
        ray.terminate()
    _, alive = psutil.wait_procs([psutil.Process(p.pid) for p in family if p.is_running()], timeout=5.0)
    for process in alive:
        process.kill()
    if ray.poll() is None:
        ray.kill()
    ray.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("folder", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--env", required=True)
    for name in ("port", "client-port", "cpus", "owner"):
        parser.add_argument(f"--{name}", type=int, required=True)
    keep(**vars(parser.parse_args()))
