"""The rendezvous store: kept by a node actor, never by a rank, so that it outlives whichever rank dies.

torch is imported when it is needed."""

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


def keep_store(host: str) -> "tuple[Store, int]":
    """Serve a store on a free port of `host`."""
    from torch._C._distributed_c10d import TCPStore

    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return store, store.port


def open_store(host: str, port: int, prefix: str, timeout_s: float) -> "Store":
    """A client's view: keys of one generation never meet those of another."""
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    client = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)
    return PrefixStore(prefix, client)
