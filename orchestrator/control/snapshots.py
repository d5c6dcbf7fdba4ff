"""What all vaults that are left hold, and the snapshot among it that a run goes on from.

The choice is made in checkpoint/recovery.py; snapshot_reader.py reads what was chosen."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from typing import Self

from orchestrator.checkpoint.layout import MayUse, use_any
from orchestrator.checkpoint.part import PartPlace
from orchestrator.checkpoint.recovery import Held, choose_snapshot
from orchestrator.control.jobs import PartAt, SnapshotStart, VaultAddress
from orchestrator.control.wire import ANSWER_S, Wire

ASKED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Inventory:
    """What each vault held when it was asked: what no rank writes to any more stays as it is."""

    vaults: Sequence[VaultAddress]
    held: Sequence[Sequence[Held]]

    @classmethod
    def take(cls, vaults: Sequence[VaultAddress]) -> Self:
        """Vaults that do not answer are passed over: a stopped one costs ANSWER_S."""
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            return cls(vaults, list(pool.map(list_held, vaults)))

    def choose(self, may_use: MayUse = use_any) -> SnapshotStart | None:
        """The newest that is there as a whole."""
        choice = choose_snapshot(self.held, may_use)
        if choice is None:
            return None
        parts = [tuple(PartAt(self.vaults[one.vault], one.held.path) for one in copies) for copies in choice.parts]
        return SnapshotStart(generation=choice.generation, step=choice.step, parts=tuple(parts))


def list_held(vault: VaultAddress) -> list[Held]:
    """Nothing, where it does not answer."""
    try:
        wire = Wire.to_vault(vault, ANSWER_S)
    except (OSError, EOFError, AuthenticationError):
        return []
    try:
        wire.say(ask="inventory")
        return [Held(PartPlace(*place), path, is_own) for place, path, is_own in wire.hear(ANSWER_S)["held"]]
    except (OSError, EOFError):
        return []
    finally:
        wire.close()
