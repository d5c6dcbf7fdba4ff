"""A state read straight out of slots of this machine, as recovery does it from vaults."""

from collections.abc import Sequence

from orchestrator.checkpoint.fragments import TensorInfo
from orchestrator.checkpoint.reader import StateReader
from orchestrator.checkpoint.slot import Slot


class SlotBytes:
    """A ByteSource."""

    def __init__(self, slot: Slot) -> None:
        self._slot, self._body = slot, slot.body()

    def read_into(self, into: memoryview, begin: int) -> None:
        into[:] = self._body[begin : begin + len(into)]

    def close(self) -> None:
        self._slot.close()


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
        parts=[(part.fragments, SlotBytes(slot)) for part, slot in zip(parts, slots, strict=True)],
    )
