"""Reads a snapshot that was chosen (snapshots.py): each rank the ranges of the state that it now owns, those of its own
node straight from the memory, and none before its checksum."""

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import AuthenticationError
from typing import NamedTuple

from orchestrator.checkpoint.chunks import CheckedFile, RecentChunks
from orchestrator.checkpoint.fragments import TensorInfo
from orchestrator.checkpoint.layout import RankRecord
from orchestrator.checkpoint.part import Part
from orchestrator.checkpoint.reader import StateReader
from orchestrator.checkpoint.slot import Slot
from orchestrator.control.jobs import PartAt, SnapshotStart, VaultAddress
from orchestrator.control.wire import Wire
from orchestrator.core.errors import CheckpointDamaged

ASKED_AT_ONCE = 32


def open_snapshot(start: SnapshotStart, own_token: str) -> StateReader:
    """To be closed by whoever has read it. `own_token` tells the vault of this node, whose memory is mapped."""
    outlines, recent = _fetch_outlines(start), RecentChunks()
    first = outlines[0].part
    return StateReader(
        step=start.step,
        generation=start.generation,
        world_size=len(outlines),
        facts=first.facts,
        tensors={name: TensorInfo.from_json(fields) for name, fields in first.tensors.items()},
        scalars={name: held for one in outlines for name, held in one.part.scalars.items()},
        engine=first.engine,
        parts=[(one.part.fragments, one.open_bytes(own_token, recent)) for one in outlines],
        where=_name_of(start),
    )


class _Outline(NamedTuple):
    """What is known of a part before its bytes are read."""

    at: PartAt
    part: Part
    checks: tuple[str, ...]

    def open_bytes(self, own_token: str, recent: RecentChunks) -> CheckedFile:
        size_bytes, vault = self.part.size_bytes, self.at.vault
        record = RankRecord(file=self.at.path, size_bytes=size_bytes, chunks=self.checks)
        where = f"{vault.host}:{self.at.path}"
        if vault.token == own_token:
            return CheckedFile(partial(Slot.open, self.at.path), record, where, recent)
        return CheckedFile(partial(VaultBytes, self.at, size_bytes), record, where, recent)


def _fetch_outlines(start: SnapshotStart) -> list[_Outline]:
    """By rank; of every vault over one wire."""
    by_vault: dict[VaultAddress, list[PartAt]] = {}
    for at in start.parts:
        by_vault.setdefault(at.vault, []).append(at)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        fetched = [outline for some in pool.map(_fetch_from, by_vault.values()) for outline in some]
    outlines = sorted(fetched, key=lambda one: one.part.rank)
    expected = [(start.generation, start.step, len(start.parts), rank) for rank in range(len(start.parts))]
    if [one.part.place for one in outlines] != expected:
        raise CheckpointDamaged("is no longer there as a whole", where=_name_of(start))
    return outlines


def _fetch_from(parts: Sequence[PartAt]) -> list[_Outline]:
    try:
        wire = Wire.to_vault(parts[0].vault)
        try:
            return [_fetch(wire, at) for at in parts]
        finally:
            wire.close()
    except (OSError, EOFError, AuthenticationError) as error:
        raise CheckpointDamaged(f"cannot be reached: {error}", where=f"vault of {parts[0].vault.host}") from error


def _fetch(wire: Wire, at: PartAt) -> _Outline:
    wire.say(ask="part", path=at.path)
    return _Outline(at, Part.from_bytes(wire.take_text()), tuple(json.loads(wire.take_text())))


def _name_of(start: SnapshotStart) -> str:
    return f"snapshot of step {start.step} of generation {start.generation}"


class VaultBytes:
    """A StoredFile that is memory of another node."""

    def __init__(self, at: PartAt, size_bytes: int) -> None:
        self.size_bytes, self._path = size_bytes, at.path
        self._wire, self._lock = Wire.to_vault(at.vault), threading.Lock()

    def read_into(self, into: memoryview, begin: int) -> None:
        with self._lock:
            self._wire.say(ask="read", path=self._path, begin=begin, count=len(into))
            self._wire.fill(into)

    def close(self) -> None:
        self._wire.close()
