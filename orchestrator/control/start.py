"""What a world goes on from: the newest snapshot in memory, else the newest sound checkpoint, else step 0.

Comes after the policy's Seek, and runs in a thread: every byte of a checkpoint may have to be read. Whether a state is
of any use, the journal says: what an earlier generation did beyond the step from which a later one went on does not
count any more, however newly it was written. And the ledger: a snapshot counts only as far as that is on disk, since
the rows of later steps may have been lost with a node; checkpoints are never ahead of it. What is still on its way is
waited for, no longer than doing its steps again would take."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.checkpoint.found import newest_sound
from orchestrator.checkpoint.layout import parse_name
from orchestrator.checkpoint.shelf import Address, LocalShelf, Shelf
from orchestrator.control.bell import Bell
from orchestrator.control.jobs import SnapshotStart, VaultAddress
from orchestrator.control.snapshots import Inventory

TOLD_S, TOLD_PAUSE_S = 5.0, 0.01  # rows that take longer to come may be lost


@dataclass(frozen=True, slots=True)
class Start:
    """`damaged`: newer checkpoints that could not be used, with why."""

    address: Address | SnapshotStart | None
    damaged: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        if isinstance(self.address, SnapshotStart):
            return self.address.step
        return (parse_name(self.checkpoint or "") or (0, 0))[0]

    @property
    def name(self) -> str:
        return f"the snapshot of step {self.snapshot}" if self.snapshot is not None else self.checkpoint or "step 0"

    @property
    def snapshot(self) -> int | None:
        """The step of the snapshot, if it is one."""
        return self.address.step if isinstance(self.address, SnapshotStart) else None

    @property
    def checkpoint(self) -> str | None:
        """The name of the checkpoint, if it is one."""
        is_checkpoint = self.address is not None and not isinstance(self.address, SnapshotStart)
        return str(self.address).rpartition("/")[2] if is_checkpoint else None


class Bound(NamedTuple):
    """States of this generation and of earlier ones count up to this step."""

    generation: int
    step: int


class StartSearch:
    """One search at a time; the one before is forgotten. The bell is rung when one is over."""

    def __init__(self, shelf: Shelf, count_told: Callable[[], int], pace: Callable[[], float], bell: Bell) -> None:
        """`count_told`: steps that are in the ledger; `pace`: seconds that one takes."""
        self._shelf, self._count_told, self._pace, self._bell = shelf, count_told, pace, bell
        self._threads = ThreadPoolExecutor(thread_name_prefix="search")  # a forgotten one may wait for a vault in vain
        self._search: Future[Start] | None = None
        self._damaged: set[tuple[int, int]] = set()  # generation and step of snapshots that could not be read
        self._distrusts_checkpoints = False

    def begin(self, vaults: Sequence[VaultAddress], bounds: Sequence[Bound]) -> None:
        self._search = self._threads.submit(self._find, vaults, tuple(bounds))
        self._search.add_done_callback(lambda _: self._bell.ring())

    @property
    def found_step(self) -> int | None:
        """None while there is nothing to take; raises what was raised."""
        return self._search.result().step if self._search is not None and self._search.done() else None

    def take(self) -> Start:
        """What was found; raises what was raised."""
        assert self._search is not None
        search, self._search = self._search, None
        return search.result()

    def distrust(self, start: Start) -> None:
        """Ranks have found it damaged."""
        if isinstance(start.address, SnapshotStart):
            self._damaged.add((start.address.generation, start.address.step))
        else:
            self._distrusts_checkpoints = True

    def _find(self, vaults: Sequence[VaultAddress], bounds: Sequence[Bound]) -> Start:
        """The bytes of a checkpoint in a store are left to the ranks, who check what they read, until they have found
        one damaged."""

        def may_use(generation: int, step: int) -> bool:
            return all(step <= bound.step for bound in bounds if generation <= bound.generation)

        def may_use_snapshot(generation: int, step: int) -> bool:
            return (generation, step) not in self._damaged and may_use(generation, step)

        inventory = Inventory.take(vaults)
        if (newest := inventory.choose(may_use_snapshot)) is not None:
            told = self._wait_until_told(newest.step)
            if (snapshot := inventory.choose(lambda g, step: step <= told and may_use_snapshot(g, step))) is not None:
                return Start(snapshot)
        thoroughly = isinstance(self._shelf, LocalShelf) or self._distrusts_checkpoints
        address, damaged = newest_sound(self._shelf, thoroughly=thoroughly, may_use=may_use)
        return Start(address, tuple(damaged))

    def _wait_until_told(self, step: int) -> int:
        """How far the ledger goes then. What was on its way to a scribe that has died comes when there is another."""
        told = self._count_told()
        if told < step:
            deadline = time.monotonic() + min(TOLD_S, (step - told) * self._pace())
            while told < step and time.monotonic() < deadline:
                time.sleep(TOLD_PAUSE_S)
                told = self._count_told()
        return told
