"""Which snapshot a run goes on from: asks all vaults that are left what they hold.

The choice is made in checkpoint/recovery.py; snapshot_reader.py reads what was chosen."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError

from orchestrator.checkpoint.layout import MayUse, use_any
from orchestrator.checkpoint.part import PartPlace
from orchestrator.checkpoint.recovery import Held, choose_snapshot
from orchestrator.control.jobs import PartAt, SnapshotStart, VaultAddress
from orchestrator.control.wire import SILENCE_S, Wire

ASKED_AT_ONCE = 32


def find_snapshot(vaults: Sequence[VaultAddress], may_use: MayUse = use_any) -> SnapshotStart | None:
    """The newest that is there as a whole; vaults that do not answer are passed over."""
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        choice = choose_snapshot(list(pool.map(list_held, vaults)), may_use)
    if choice is None:
        return None
    parts = tuple(PartAt(vaults[found.vault], found.held.path) for found in choice.parts)
    return SnapshotStart(generation=choice.generation, step=choice.step, parts=parts)


def list_held(vault: VaultAddress) -> list[Held]:
    """Nothing, where it does not answer."""
    try:
        wire = Wire.to_vault(vault)
    except (OSError, EOFError, AuthenticationError):
        return []
    try:
        wire.say(ask="inventory")
        return [Held(PartPlace(*place), path, is_own) for place, path, is_own in wire.hear(SILENCE_S)["held"]]
    except (OSError, EOFError):
        return []
    finally:
        wire.close()
