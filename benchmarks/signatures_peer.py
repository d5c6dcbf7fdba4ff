"""Peer of signatures.py: datatrove's signature stage over a JSON list of texts; prints one line of JSON.

Imports nothing of Longhaul, since datatrove lives in an environment of its own. As many hashes a document as Longhaul's
18 bands of 7 rows, in the same shape."""

import json
import sys
import tempfile
import time
from pathlib import Path


def main(path: str, count: int) -> None:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from loguru import logger

    logger.remove()
    texts = json.loads(Path(path).read_text())[:count]
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    config = MinhashConfig(n_grams=5, num_buckets=18, hashes_per_bucket=7)
    with tempfile.TemporaryDirectory() as folder:
        MinhashDedupSignature(output_folder=f"{folder}/warm", config=config).run(documents[:5])
        stage = MinhashDedupSignature(output_folder=f"{folder}/signatures", config=config)
        began, cpu = time.perf_counter(), time.process_time()
        stage.run(documents)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"documents": len(texts), "bytes": size, "seconds": seconds, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
