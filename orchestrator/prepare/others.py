"""Other preparations of the same sources in a work place, which other rules, tokenizers or weights have made.

Told after the last commit, so that nobody wonders why everything was prepared again, or which folder may go."""

from pathlib import Path

from orchestrator.core.errors import DataError
from orchestrator.data.shards.manifest import Manifest
from orchestrator.storage.publish import read_json


def find_others(manifest: Manifest) -> list[Path]:
    """Folders of the other chains. Reads one small file a chain."""
    folders = manifest.work.chain(manifest.chain).parent.iterdir()
    return [folder for folder in sorted(folders) if folder.name != manifest.chain and _has(folder, manifest)]


def _has(folder: Path, manifest: Manifest) -> bool:
    try:
        head = read_json(folder / "segment-00000.json")
    except DataError:  # not committed yet, or of another version: whoever uses it will say so
        return False
    return bool(head.get("source_names") == manifest.source_names)
