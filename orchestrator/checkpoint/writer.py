"""Writes checkpoints: every rank its part, then one of them what ties the parts together, COMMIT last.

Comes after slot.py, whose bytes are those of the file; reader.py reads them. Files go straight into the folder of the
final name: ranks on several nodes could not rename one folder together, and without COMMIT nobody trusts it. The name
holds the generation, which only one controller can claim, so no two writers ever share a folder."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.fragments import Piece, TensorInfo, check_coverage
from orchestrator.checkpoint.layout import RankRecord
from orchestrator.checkpoint.part import Part
from orchestrator.checkpoint.slot import Slot
from orchestrator.storage.publish import flush_folder, publish_bytes

GIB = 2**30


def write_part(folder: Path, slot: Slot) -> None:
    """One rank's file and record, on disk when this returns. The slot is sealed."""
    part = slot.part()
    if part.rank == 0:
        remove_leftovers(folder, part.step, part.generation)
    path = _path_of(folder, part)
    path.mkdir(parents=True, exist_ok=True)
    if (path / layout.COMMIT).exists():
        raise FileExistsError(f"{path} is a committed checkpoint already")
    _check_free_space(path, part.size_bytes)
    name = layout.data_name(part.rank)
    with (path / name).open("wb") as file:
        file.write(slot.body())
        file.flush()
        os.fsync(file.fileno())
    record = RankRecord(
        file=name, size_bytes=part.size_bytes, chunks=slot.checks(), scalars=part.scalars, fragments=part.fragments
    )
    publish_bytes(path / layout.record_name(part.rank), record.to_bytes())  # flushes the folder, with both names in it


def commit(folder: Path, part: Part) -> tuple[Path, int]:
    """Check that the ranks together wrote everything, then make it a checkpoint; its path and the size of its files."""
    path = _path_of(folder, part)
    records_bytes = [(path / layout.record_name(rank)).read_bytes() for rank in range(part.world_size)]
    records = [RankRecord.from_bytes(data) for data in records_bytes]
    infos = {name: TensorInfo.from_json(fields) for name, fields in part.tensors.items()}
    check_coverage(infos, (Piece(*placed[:4]) for record in records for placed in record.fragments))
    manifest = layout.to_bytes(
        {
            "format": layout.FORMAT,
            "step": part.step,
            "generation": part.generation,
            "world_size": part.world_size,
            **asdict(part.facts),
            "tensors": part.tensors,
            "scalars": {name: held for record in records for name, held in record.scalars.items()},
            "engine": part.engine,
            "records": [layout.digest(data) for data in records_bytes],
        }
    )
    publish_bytes(path / layout.MANIFEST, manifest)
    publish_bytes(path / layout.COMMIT, layout.commit_bytes(manifest))
    flush_folder(folder)
    return path, sum(record.size_bytes for record in records)


def remove_leftovers(folder: Path, step: int, generation: int) -> None:
    """Remove what killed writers left behind, before this generation's save of `step`."""
    for path, its_step, its_generation in layout.uncommitted(folder):
        if (its_generation, its_step) < (generation, step):
            _remove(path)


def remove_uncommitted(folder: Path, part: Part) -> None:
    """What there is of a checkpoint that was given up."""
    path = _path_of(folder, part)
    if not (path / layout.COMMIT).exists():
        _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # what cannot be removed now is tried again by the next save


def _path_of(folder: Path, part: Part) -> Path:
    return folder / layout.checkpoint_name(part.step, part.generation)


def _check_free_space(path: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(path).free
    if free_bytes < needed_bytes:
        raise OSError(
            f"{path} needs {needed_bytes / GIB:.3f} GiB for this rank and has {free_bytes / GIB:.3f} GiB free; "
            "make room, or keep fewer checkpoints (checkpoint.keep.last, checkpoint.keep.best)"
        )
