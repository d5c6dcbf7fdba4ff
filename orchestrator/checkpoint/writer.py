"""Writes a checkpoint: every rank its fragments, then rank 0 what ties them together, COMMIT last.

Comes after fragments.py; reader.py reads it. Files go straight into the folder of the final name: ranks on several
nodes could not rename one folder together, and without COMMIT nobody trusts it. The name holds the generation, which
only one controller can claim, so no two writers ever share a folder."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.fragments import Fragment, Piece, RankState, check_coverage
from orchestrator.checkpoint.layout import CheckpointFacts, Placed, RankRecord
from orchestrator.core.errors import CheckpointDamaged
from orchestrator.storage.publish import flush_folder, publish_bytes


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    path: Path
    size_bytes: int  # on rank 0 of all ranks' files, elsewhere of this rank's


@dataclass(frozen=True, slots=True)
class SaveProblem:
    """The checkpoint was given up and removed; training can go on."""

    message: str


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    generation: int,
    rank: int,
    world_size: int,
    state: RankState,
    facts: CheckpointFacts,
    barrier: Callable[[bool], bool],
) -> SavedCheckpoint | SaveProblem:
    """Called on every rank alike. `barrier(ok)` waits for all ranks and says whether all were ok.

    What the file system refuses on any rank becomes a SaveProblem on every rank; what `barrier` raises goes through."""
    path = folder / layout.checkpoint_name(step, generation)

    def write_own() -> int:
        if rank == 0:
            remove_leftovers(folder, step, generation)
        return _write_rank(path, rank, state)

    def commit() -> int:
        head = {"step": step, "generation": generation, "world_size": world_size}
        return _commit(path, head, state, facts, world_size) if rank == 0 else 0

    sizes = []
    for act in (write_own, commit):
        size, problem = _attempt(act)
        if not barrier(not problem):
            if rank == 0:
                _remove_uncommitted(path)
            return SaveProblem(problem or f"{path.name}: another rank could not write its part, see that rank's log")
        sizes.append(size)
    return SavedCheckpoint(path, max(sizes))


def remove_leftovers(folder: Path, step: int, generation: int) -> None:
    """Remove what killed writers left behind, before this generation's save of `step`."""
    for path, its_step, its_generation in layout.uncommitted(folder):
        if (its_generation, its_step) < (generation, step):
            _remove_uncommitted(path)


def _attempt(act: Callable[[], int]) -> tuple[int, str]:
    try:
        return act(), ""
    except (OSError, CheckpointDamaged) as error:
        return 0, f"checkpoint not written: {error}"


def _remove_uncommitted(path: Path) -> None:
    if not (path / layout.COMMIT).exists():
        shutil.rmtree(path, ignore_errors=True)  # what cannot be removed now is tried again by the next save


def _write_rank(path: Path, rank: int, state: RankState) -> int:
    """One rank's file and record, on disk when this returns; the size of the file."""
    path.mkdir(parents=True, exist_ok=True)
    if (path / layout.COMMIT).exists():
        raise FileExistsError(f"{path} is a committed checkpoint already")
    needed = sum(fragment.values.nbytes for fragment in state.fragments)
    _check_free_space(path, needed)
    record = write_fragments(path / layout.data_name(rank), state)
    publish_bytes(path / layout.record_name(rank), record.to_bytes())  # flushes the folder, with both names in it
    return record.size_bytes


def _check_free_space(path: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(path).free
    if free_bytes < needed_bytes:
        gib = 2**30
        raise OSError(
            f"{path} needs {needed_bytes / gib:.3f} GiB for this rank and has {free_bytes / gib:.3f} GiB free; "
            "make room, or keep fewer checkpoints (checkpoint.keep.last, checkpoint.keep.best)"
        )


def write_fragments(path: Path, state: RankState) -> RankRecord:
    """A safetensors file, written and hashed in one pass without another copy of the state in memory."""
    fragments = sorted(state.fragments, key=lambda fragment: -fragment.values.element_size())  # keeps all aligned
    header = _safetensors_header(fragments)
    hasher = xxhash.xxh3_128()
    placed = []
    with path.open("wb") as file:
        for part in (len(header).to_bytes(8, "little"), header):
            hasher.update(part)
            file.write(part)
        for fragment in fragments:
            placed.append(_place(fragment, file.tell()))
            values = _as_bytes(fragment.values)
            hasher.update(values)
            file.write(values)
        file.flush()
        os.fsync(file.fileno())
        size_bytes = file.tell()
    return RankRecord(
        file=path.name,
        size_bytes=size_bytes,
        xxh3_128=hasher.hexdigest(),
        scalars=state.scalars,
        fragments=tuple(placed),
    )


def _place(fragment: Fragment, begin: int) -> Placed:
    values = fragment.values
    dtype = layout.dtype_name(values.dtype)
    return Placed(fragment.name, fragment.state, fragment.start, values.numel(), dtype, begin)


def _safetensors_header(fragments: list[Fragment]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": str(layout.FORMAT)}}
    end = 0
    for fragment in fragments:
        begin, end = end, end + fragment.values.nbytes
        header[layout.tensor_key(fragment.name, fragment.state, fragment.start)] = {
            "dtype": layout.DTYPES[layout.dtype_name(fragment.values.dtype)],
            "shape": [fragment.values.numel()],
            "data_offsets": [begin, end],
        }
    data = json.dumps(header, separators=(",", ":")).encode()
    return data + b" " * (-len(data) % 8)  # so that the first tensor begins at a multiple of 8


def _as_bytes(values: torch.Tensor) -> memoryview:
    return values.view(torch.uint8).numpy().data


def _commit(path: Path, head: dict[str, Any], state: RankState, facts: CheckpointFacts, world_size: int) -> int:
    """Check that the ranks together wrote everything, then make it a checkpoint; the size of all ranks' files."""
    records_bytes = [(path / layout.record_name(rank)).read_bytes() for rank in range(world_size)]
    records = [RankRecord.from_bytes(data) for data in records_bytes]
    check_coverage(state.tensors, (Piece(*placed[:4]) for record in records for placed in record.fragments))
    manifest = layout.to_bytes(
        {
            "format": layout.FORMAT,
            **head,
            **asdict(facts),
            "tensors": {name: asdict(info) for name, info in state.tensors.items()},
            "scalars": {name: held for record in records for name, held in record.scalars.items()},
            "engine": state.engine,
            "records": [layout.digest(data) for data in records_bytes],
        }
    )
    publish_bytes(path / layout.MANIFEST, manifest)
    publish_bytes(path / layout.COMMIT, layout.commit_bytes(manifest))
    flush_folder(path.parent)
    return sum(record.size_bytes for record in records)
