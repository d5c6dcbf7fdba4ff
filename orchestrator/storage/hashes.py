"""Hashes of files that decide what preparing comes to and are no shards of the dataset: models, benchmark files.

rules.py asks in the launcher; whoever uses such a file, on whatever machine, looks whether it is the same."""

import xxhash

from orchestrator.storage.publish import read_json
from orchestrator.storage.stores import Stores
from orchestrator.storage.workplace import WorkPlace, store_json

LARGE_BYTES = 64 * 2**20  # below, hashing takes less than a tenth of a second


def hash_file(url: str, work: WorkPlace, stores: Stores) -> str:
    """xxh3-128 of all bytes. What is large or remote is read once for each place, size and time."""
    stamp = stores.stamp(url)
    path = work.hash_of_file(url, stamp)
    if path.exists():
        return str(read_json(path)["hash"])
    opened = stores.open(url, stamp)
    opened.need_all()
    found = xxhash.xxh3_128_hexdigest(opened.data)
    if len(opened.data) > LARGE_BYTES or stores.is_remote(url):
        store_json(path, {"format": 1, "hash": found})
    return found
