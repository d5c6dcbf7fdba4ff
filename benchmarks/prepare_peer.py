"""Peer of prepare.py: shingles cut in Python, given to rensa, in some processes; prints one line of JSON.

Imports nothing of Longhaul, since rensa lives in an environment of its own. Documents are read in order, and one goes
that rensa's index finds an earlier one for: estimates are not verified."""

import json
import re
import sys
import tarfile
import time
from multiprocessing import Pool
from pathlib import Path

from rensa import RMinHash, RMinHashLSH

THRESHOLD, BANDS, ROWS, NGRAM = 0.8, 18, 7, 5
_WORDS = re.compile(r"\w+")


def sign_shard(path: str) -> list[RMinHash]:
    shingles = []
    with tarfile.open(path) as tar:
        for member in tar:
            words = _WORDS.findall(tar.extractfile(member).read().decode().lower())  # type: ignore[union-attr]
            shingles.append({" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))})
    return RMinHash.from_token_sets(shingles, BANDS * ROWS, 42)


def main() -> None:
    shards, processes = sorted(map(str, Path(sys.argv[1]).glob("*.tar"))), int(sys.argv[2])
    lsh = RMinHashLSH(THRESHOLD, BANDS * ROWS, BANDS)
    dropped = number = 0
    with Pool(processes) as pool:
        pool.map(len, [[]] * processes)  # they are there
        began = time.perf_counter()
        for signatures in pool.imap(sign_shard, shards):
            for signature in signatures:
                dropped += bool(lsh.query(signature))
                lsh.insert(number, signature)
                number += 1
        seconds = time.perf_counter() - began
    print(json.dumps({"documents": number, "seconds": seconds, "dropped": dropped}))


if __name__ == "__main__":
    main()
