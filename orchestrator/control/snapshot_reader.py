"""Reads a snapshot that was chosen (snapshots.py): each rank the ranges of the state that it now owns, those of its own
node straight from the memory, and none before its checksum.

Where a vault does not answer, the next one with a copy is asked. Only with the last one there is patience."""

import json
import logging
import threading
from collections.abc import Iterable, Sequence
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
from orchestrator.control.wire import ANSWER_S, SILENCE_S, Wire
from orchestrator.core.errors import CheckpointDamaged

log = logging.getLogger(__name__)
ASKED_AT_ONCE = 32
Copies = tuple[PartAt, ...]  # of one part, the first to be taken
_GONE = (OSError, EOFError, AuthenticationError)


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

    copies: Copies
    part: Part
    checks: tuple[str, ...]

    def open_bytes(self, own_token: str, recent: RecentChunks) -> CheckedFile:
        size_bytes, at = self.part.size_bytes, self.copies[0]
        record = RankRecord(file=at.path, size_bytes=size_bytes, chunks=self.checks)
        where = f"{at.vault.host}:{at.path}"
        if at.vault.token == own_token:
            return CheckedFile(partial(Slot.open, at.path), record, where, recent)
        return CheckedFile(partial(VaultBytes, self.copies, size_bytes), record, where, recent)


def _fetch_outlines(start: SnapshotStart) -> list[_Outline]:
    """By rank; of every vault over one wire."""
    pool = ThreadPoolExecutor(ASKED_AT_ONCE)
    try:
        fetched = [outline for some in pool.map(_fetch_from, _group(start.parts)) for outline in some]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # who gives up does not wait for a vault that is gone
    outlines = sorted(fetched, key=lambda one: one.part.rank)
    expected = [(start.generation, start.step, len(start.parts), rank) for rank in range(len(start.parts))]
    if [one.part.place for one in outlines] != expected:
        raise CheckpointDamaged("is no longer there as a whole", where=_name_of(start))
    return outlines


def _group(parts: Iterable[Copies]) -> list[list[Copies]]:
    """By the vault that is to be asked."""
    by_vault: dict[VaultAddress, list[Copies]] = {}
    for copies in parts:
        by_vault.setdefault(copies[0].vault, []).append(copies)
    return list(by_vault.values())


def _fetch_from(parts: Sequence[Copies]) -> list[_Outline]:
    """From one vault; what it does not give, from the next ones."""
    try:
        wire = _open_wire(min(parts, key=len))
        try:
            return [_fetch(wire, copies) for copies in parts]
        finally:
            wire.close()
    except _GONE as error:
        vault, others = parts[0][0].vault, [copies[1:] for copies in parts]
        if not all(others):
            raise CheckpointDamaged(f"cannot be reached: {error}", where=f"vault of {vault.host}") from error
        log.warning("the vault of %s does not answer, others are asked: %s", vault.host, error)
        return [outline for some in _group(others) for outline in _fetch_from(some)]


def _open_wire(copies: Copies) -> Wire:
    """To the first; the longer patience is for the last."""
    return Wire.to_vault(copies[0].vault, ANSWER_S if len(copies) > 1 else SILENCE_S)


def _fetch(wire: Wire, copies: Copies) -> _Outline:
    wire.say(ask="part", path=copies[0].path)
    return _Outline(copies, Part.from_bytes(wire.take_text()), tuple(json.loads(wire.take_text())))


def _name_of(start: SnapshotStart) -> str:
    return f"snapshot of step {start.step} of generation {start.generation}"


class VaultBytes:
    """A StoredFile that is memory of other nodes."""

    def __init__(self, copies: Copies, size_bytes: int) -> None:
        self.size_bytes, self._copies = size_bytes, copies
        self._wire: Wire | None = None  # to the vault of the first copy
        self._lock = threading.Lock()

    def read_into(self, into: memoryview, begin: int) -> None:
        with self._lock:
            while True:
                try:
                    return self._read(into, begin)
                except _GONE as error:
                    self._forget_wire()
                    if len(self._copies) == 1:
                        raise
                    log.warning("the vault of %s is silent, another is asked: %s", self._copies[0].vault.host, error)
                    self._copies = self._copies[1:]

    def close(self) -> None:
        self._forget_wire()

    def _read(self, into: memoryview, begin: int) -> None:
        if self._wire is None:
            self._wire = _open_wire(self._copies)
        self._wire.say(ask="read", path=self._copies[0].path, begin=begin, count=len(into))
        self._wire.fill(into)

    def _forget_wire(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
