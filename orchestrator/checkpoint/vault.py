"""What a rank sees of its node's vault: slots to fill, and answers about what became of them.

What happens to a filled slot happens behind the rank's back: behind.py does it, in the vault's process
(control/vault.py) or, where there is no Ray, in a thread."""

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.checkpoint.slot import Slot


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """The slot's checksums are taken and the buddy node, if there is one, has it, too."""

    step: int
    cpu_s: float = 0.0  # of a processor, that it took


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """This rank's part of a checkpoint is on disk, or could not be written: `problem` says why."""

    step: int
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """It is a checkpoint now, or could not be made one. `problem` may also say that older ones could not be removed."""

    step: int
    path: str = ""  # empty: it is none
    size_bytes: int = 0  # of all ranks' files
    problem: str = ""


Answer = Kept | Written | Committed


def take_all(answers: "queue.SimpleQueue[Answer]", *, wait: bool) -> list[Answer]:
    """All that there are; with `wait` at least one."""
    found = [answers.get()] if wait else []
    while not answers.empty():
        found.append(answers.get())
    return found


class Vault(Protocol):
    """One rank's."""

    @property
    def slots(self) -> Sequence[Slot]:
        """This rank fills them; which are free is its own knowledge, and the same on every rank."""
        ...

    def keep(self, slot: int, *, write: bool) -> None:
        """The slot is whole. Answered by Kept and, if it is to be written, by Written, whichever is first."""
        ...

    def commit(self, slot: int) -> None:
        """All ranks have written theirs; asked by rank 0 only. Answered by Committed."""
        ...

    def discard(self, slot: int) -> None:
        """Some rank could not write its part: remove what there is of it; asked by rank 0 only. Not answered."""
        ...

    def close(self) -> None:
        """Nothing more will be asked."""
        ...

    def answers(self, *, wait: bool = False) -> list[Answer]:
        """All that have come since the last call; with `wait` at least one."""
        ...
