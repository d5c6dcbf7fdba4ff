"""Writes checkpoints: every rank its part, then one of them what ties the parts together, COMMIT last.

Comes after slot.py, whose bytes are those of the file; reader.py reads them. Files go straight to where they stay:
ranks on several nodes could not rename one folder together, and without COMMIT nobody trusts it. Its name holds the
generation, which only one controller can claim, so no two writers ever share one."""

import logging
from dataclasses import asdict
from pathlib import Path

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.fragments import Piece, TensorInfo, check_coverage
from orchestrator.checkpoint.layout import RankRecord
from orchestrator.checkpoint.part import Part
from orchestrator.checkpoint.shelf import Address, Shelf, to_shelf
from orchestrator.checkpoint.slot import Slot

log = logging.getLogger(__name__)


def write_part(kept: Shelf | Path, slot: Slot) -> None:
    """One rank's file and record, durable when this returns. The slot is sealed."""
    shelf, part = to_shelf(kept), slot.part()
    name, file = _name_of(part), layout.data_name(part.rank)
    if part.rank == 0:
        _remove_leftovers(shelf, part)
    if _is_committed(shelf, name):
        raise FileExistsError(f"{shelf.where(name)} is a committed checkpoint already")
    body = slot.body()
    shelf.write(name, file, part.size_bytes, lambda begin, end: body[begin:end])
    record = RankRecord(
        file=file, size_bytes=part.size_bytes, chunks=slot.checks(), scalars=part.scalars, fragments=part.fragments
    )
    shelf.publish(name, layout.record_name(part.rank), record.to_bytes())


def commit(kept: Shelf | Path, part: Part) -> tuple[Address, int]:
    """Check that the ranks together wrote everything, then make it a checkpoint; its address, and its files' size."""
    shelf, name = to_shelf(kept), _name_of(part)
    shelf.settle(name)
    records_bytes = [shelf.read(name, layout.record_name(rank)) for rank in range(part.world_size)]
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
    shelf.publish(name, layout.MANIFEST, manifest)
    shelf.publish(name, layout.COMMIT, layout.commit_bytes(manifest))
    return shelf.address(name), sum(record.size_bytes for record in records)


def remove_uncommitted(kept: Shelf | Path, part: Part) -> None:
    """What there is of a checkpoint that was given up. What cannot be removed now is tried again by the next save."""
    shelf, name = to_shelf(kept), _name_of(part)
    if not _is_committed(shelf, name):
        _remove(shelf, name)


def _remove_leftovers(shelf: Shelf, part: Part) -> None:
    """What killed writers left behind, before this generation's save of its step."""
    for name, files in shelf.list().items():
        step, generation = layout.parse_name(name) or (0, 0)
        if layout.COMMIT not in files and (generation, step) < (part.generation, part.step):
            _remove(shelf, name)


def _remove(shelf: Shelf, name: str) -> None:
    try:
        shelf.remove(name)
    except OSError as error:
        log.warning("%s is no checkpoint and cannot be removed: %s", shelf.where(name), error)


def _is_committed(shelf: Shelf, name: str) -> bool:
    try:
        shelf.read(name, layout.COMMIT)
    except FileNotFoundError:
        return False
    return True


def _name_of(part: Part) -> str:
    return layout.checkpoint_name(part.step, part.generation)
