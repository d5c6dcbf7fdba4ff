"""Copies values of an engine into the memory of a slot. From a GPU beside its next forward pass. Used by snapshot.py.

The slot's memory is pinned, so that the GPU writes into it by itself, on a stream of its own. Until the next update
nothing changes what is copied, but for buffers, which a forward pass may write: they are copied before it begins."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


class Piece(NamedTuple):
    """Values that lie together, and the byte of the part where they begin."""

    values: torch.Tensor
    begin: int
    is_buffer: bool

    def place_in(self, memory: torch.Tensor) -> torch.Tensor:
        return memory[self.begin : self.begin + self.values.nbytes].view(self.values.dtype)


class Copier:
    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None  # of the copies on their way
        self._pinned: dict[str, torch.Tensor] = {}  # memory by slot

    @property
    def is_busy(self) -> bool:
        """Whether copies are on their way: wait before the slot may be called whole."""
        return self._copied is not None

    def copy(self, slot: str, memory: torch.Tensor, pieces: Sequence[Piece]) -> None:
        """Everything, into one slot's memory."""
        here = [piece for piece in pieces if not piece.values.is_cuda]
        there = [piece for piece in pieces if piece.values.is_cuda]
        if there:
            self._pin(slot, memory)
            self._copy_from_gpu(memory, there)
        if here:
            torch._foreach_copy_([piece.place_in(memory) for piece in here], [piece.values for piece in here])

    def hold_back(self) -> None:
        """What the GPU is given to do from here on begins when the copies are done. Costs this process nothing."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)

    def wait(self) -> None:
        """Until the copies are done."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None

    def close(self) -> None:
        self.wait()
        for memory in self._pinned.values():
            _unpin(memory)
        self._pinned.clear()

    def _copy_from_gpu(self, memory: torch.Tensor, pieces: Sequence[Piece]) -> None:
        device = pieces[0].values.device
        current = torch.cuda.current_stream(device)
        stream = self._stream = self._stream or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        for piece in pieces:
            if piece.is_buffer:
                piece.place_in(memory).copy_(piece.values, non_blocking=True)
        stream.wait_stream(current)  # the last update, and the copies of buffers
        with torch.cuda.stream(stream):
            for piece in pieces:
                if not piece.is_buffer:
                    piece.place_in(memory).copy_(piece.values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(stream)

    def _pin(self, slot: str, memory: torch.Tensor) -> None:
        """Once a slot, and again when it has grown. Where memory must not be locked copies are slower, as right."""
        known = self._pinned.get(slot)
        if known is not None and (known.data_ptr(), known.nbytes) == (memory.data_ptr(), memory.nbytes):
            return
        if known is not None:
            _unpin(self._pinned.pop(slot))
        if int(_runtime().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)) == 0:
            self._pinned[slot] = memory  # which keeps the mapping alive


def _unpin(memory: torch.Tensor) -> None:
    _runtime().cudaHostUnregister(memory.data_ptr())


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
