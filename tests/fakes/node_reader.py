"""Processes of one node that read a remote shard together: `python -m tests.fakes.node_reader SETTINGS URL STAMP N`.

Forks N processes, as a node does with ranks; each opens the store, reads all blocks in an order of its own, and prints
the checksum of what it saw and how many blocks it fetched itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import xxhash

from orchestrator.storage.stores import BLOCK_BYTES, StoreSettings, open_stores


def start_readers(settings: dict[str, object], url: str, stamp: str, count: int) -> "subprocess.Popen[str]":
    """In a process group of their own, so that all can be killed at once."""
    command = [sys.executable, "-m", "tests.fakes.node_reader", json.dumps(settings), url, stamp, str(count)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True)


def await_readers(readers: "subprocess.Popen[str]") -> list[tuple[str, int]]:
    """Of each process the checksum of what it saw, and how many blocks it fetched."""
    told = readers.communicate(timeout=120)[0].removeprefix("forking\n")
    assert readers.returncode == 0
    return [(checksum, int(misses)) for checksum, misses in map(str.split, told.splitlines())]


def read_shard(settings: StoreSettings, url: str, stamp: str, reader: int) -> str:
    shard = open_stores(settings).open(url, stamp)
    order = np.random.default_rng(reader).permutation(-(-len(shard.data) // BLOCK_BYTES)) * BLOCK_BYTES
    misses = 0
    for begin in order:
        end = min(int(begin) + BLOCK_BYTES, len(shard.data))
        misses += shard.need(np.array([begin]), np.array([end])).misses
    return f"{xxhash.xxh3_128_hexdigest(shard.data)} {misses}"


def main() -> None:
    settings, url, stamp = StoreSettings(**json.loads(sys.argv[1])), sys.argv[2], sys.argv[3]
    print("forking", flush=True)
    children = []
    for reader in range(int(sys.argv[4])):
        pid = os.fork()
        if pid == 0:
            os.write(1, f"{read_shard(settings, url, stamp, reader)}\n".encode())  # at once, which print does not
            os._exit(0)
        children.append(pid)
    sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))


if __name__ == "__main__":
    main()
