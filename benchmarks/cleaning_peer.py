"""datatrove's filters over the documents of cleaning.py, in a process of its own: it prints one line of JSON.

Imports nothing of Longhaul, since datatrove lives in an environment of its own."""

import json
import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters import gopher_quality_filter as quality
from datatrove.pipeline.filters import gopher_repetition_filter as repetition


def main(words: str, path: str) -> None:
    if words == "whitespace":
        quality.split_into_words = repetition.split_into_words = lambda text, language: text.split()
    filters = {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "c4": C4QualityFilter(),
    }

    def judge(text: str) -> str:
        document = Document(text=text, id="")
        return next((name for name, one in filters.items() if one.filter(document) is not True), "")

    texts = json.loads(Path(path).read_text())
    for text in texts[:20]:
        judge(text)
    began, cpu = time.perf_counter(), time.process_time()
    rules = [judge(text) for text in texts]
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "rules": rules}))


if __name__ == "__main__":
    main(*sys.argv[1:])
