"""The rendezvous store: a process of its own, forked by the nursery, that ends with its node actor; never in a rank, so
that it outlives whichever rank dies."""

import os
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from orchestrator.control.jobs import StoreSetup

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


def live_as_store(connection: Connection, setup: StoreSetup) -> None:
    """Serve on a free port, say which and who this is, and stay until the node actor is gone."""
    from torch._C._distributed_c10d import TCPStore

    store = TCPStore(setup.host, 0, is_master=True, wait_for_workers=False)
    connection.send((store.port, os.getpid()))
    connection.poll(None)


def open_store(host: str, port: int, prefix: str, timeout_s: float) -> "Store":
    """A client's view: keys of one generation never meet those of another."""
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    client = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)
    return PrefixStore(prefix, client)
