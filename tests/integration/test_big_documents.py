"""One document of 200 MB, and 200,000 that are the same: prepared in bounded memory and time, or refused."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.core.errors import DataError
from orchestrator.prepare.run import prepare
from tests.fakes.copies import NEAR, config_of, drops_of, make_text
from tests.fakes.shards import write_tar, write_texts

pytestmark = pytest.mark.cluster
_PREPARE = """
import json, re, sys
from pathlib import Path
from orchestrator.prepare.run import prepare
from tests.fakes.copies import config_of
section, data = json.loads(sys.argv[2]), json.loads(sys.argv[3])
manifest = prepare(config_of(Path(sys.argv[1]), section, **data))
peak_kb = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)
print(manifest.kept("train").sum(), int(peak_kb) // 1024)
"""


def make_long(megabytes: int) -> bytes:
    """No two pages of it are the same."""
    rng = random.Random(3)
    words = [f"word{i}".encode() for i in range(500)]
    return b" ".join(rng.choice(words) for _ in range(megabytes * 1_000_000 // 8))


def prepare_apart(root: Path, section: dict[str, object], **data: object) -> tuple[int, int]:
    """In a process of its own: how many samples are kept, and the most MiB it needed."""
    arguments = [str(root), json.dumps(section), json.dumps(data)]
    command = [sys.executable, "-c", _PREPARE, *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    kept, mebibytes = map(int, done.stdout.split())
    return kept, mebibytes


def write_long(root: Path, megabytes: int) -> None:
    long = make_long(megabytes)
    short = make_text(random.Random(1)).encode()
    write_tar(root / "data" / "0.tar", [("a.txt", short), ("long.txt", long), ("z.txt", short + b" z")])


def test_a_document_of_200_mb_is_compared_in_bounded_memory(tmp_path):
    write_long(tmp_path, 200)
    section = {**NEAR, "tokens": None, "compare": "txt"}
    kept, mebibytes = prepare_apart(tmp_path, section, fields={"text": {"members": ["txt"]}})
    assert kept == 2
    assert mebibytes < 1200


def test_a_long_document_becomes_tokens_in_bounded_memory(tmp_path):
    write_long(tmp_path, 30)
    kept, mebibytes = prepare_apart(tmp_path, NEAR)
    assert kept == 2
    assert mebibytes < 1000  # at once it would need 5 GB


def test_200000_same_documents_trip_the_guard_or_go_quickly(tmp_path):
    text = make_text(random.Random(4), 20)
    write_texts(tmp_path / "data" / "0.tar", dict.fromkeys((f"d{i:06d}" for i in range(200_000)), text))
    with pytest.raises(DataError, match=r"199,999 of the 200,000 samples of source data would go as duplicates, 100%"):
        prepare(config_of(tmp_path, NEAR))
    begin = time.monotonic()
    manifest = prepare(config_of(tmp_path, {"dedup": {**NEAR["dedup"], "most_lost": 1.0}}))
    assert time.monotonic() - begin < 60
    assert manifest.places(0, "train").tolist() == [0]
    assert len(drops_of(manifest)) == 199_999
