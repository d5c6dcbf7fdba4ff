"""A state read straight out of slots of this machine, as recovery does it from vaults."""

from collections.abc import Sequence

from orchestrator.checkpoint.fragments import TensorInfo
from orchestrator.checkpoint.reader import StateReader
from orchestrator.checkpoint.slot import Slot


def read_slots(paths: Sequence[str]) -> StateReader:
    """By rank; all of one snapshot."""
    slots = [Slot.open(path) for path in paths]
    parts = [slot.part() for slot in slots]
    assert [part.rank for part in parts] == list(range(parts[0].world_size))
    assert len({part.step for part in parts}) == 1
    return StateReader(
        step=parts[0].step,
        generation=parts[0].generation,
        world_size=parts[0].world_size,
        facts=parts[0].facts,
        tensors={name: TensorInfo.from_json(fields) for name, fields in parts[0].tensors.items()},
        scalars={name: numbers for part in parts for name, numbers in part.scalars.items()},
        engine=parts[0].engine,
        parts=[(part.fragments, slot) for part, slot in zip(parts, slots, strict=True)],
    )
