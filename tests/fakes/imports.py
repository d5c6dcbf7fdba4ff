"""Inputs for tests of importing, and what an import made of them as the standard library reads it."""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.core.mapping import RunAll, run_serially
from orchestrator.importing.inputs import find_inputs
from orchestrator.importing.run import ImportReport, import_data
from orchestrator.importing.wish import KindName, Wish


def run_import(
    sources: Path | Iterable[Path],
    folder: Path,
    *,
    kind: KindName | None = None,
    run_all: RunAll = run_serially,
    **wish: Any,
) -> ImportReport:
    """As the command does it; shards are called s-000000.tar and so on."""
    named = [sources] if isinstance(sources, Path) else sources
    found = find_inputs([str(source) for source in named], kind)
    return import_data(found, Wish(name="s", **wish), folder, run_all)


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def write_text_rows(path: Path, count: int) -> Path:
    return write_rows(path, [{"id": f"d{i:04d}", "text": f"document {i} " + "word " * (i % 50)} for i in range(count)])


def read_shards(folder: Path) -> dict[str, dict[str, bytes]]:
    """Members' bytes by name, by shard."""
    shards = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            assert len({member.name for member in members}) == len(members)
            shards[path.name] = {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    return shards


def read_members(folder: Path) -> dict[str, bytes]:
    """Members' bytes by name; of all shards, whose names must then be different."""
    shards = read_shards(folder)
    members = {name: data for shard in shards.values() for name, data in shard.items()}
    assert len(members) == sum(map(len, shards.values()))
    return members


def read_shard_files(folder: Path) -> dict[str, bytes]:
    """The bytes of everything that readers of the folder see."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
