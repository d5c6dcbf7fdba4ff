"""The roll: samples of some segments that are compared with one another, in the order of who stays.

Between signs.py, which signs a shard, and judge.py. What stays of a segment is kept in the work place as a roll, so
that segments that come later, years later even, are compared with it without reading its shards."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.prepare.judging.signs import Signs
from orchestrator.prepare.near.documents import Signatures
from orchestrator.storage.tables import fold_rows, map_table, store_table, unfold_rows


@dataclass(frozen=True, kw_only=True)
class Roll:
    """Arrays by number. Of two samples alike, the one with the smaller number stays."""

    ordinals: NDArray[np.int64]
    places: NDArray[np.int64]
    splits: NDArray[np.uint8]
    hashes: NDArray[np.uint64]
    kinds: NDArray[np.uint8]
    keys: NDArray[np.uint32]
    sketch: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ordinals)

    def take(self, numbers: NDArray[Any]) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[numbers] for field in fields(self)})

    @property
    def near(self) -> Signatures:
        return Signatures(self.kinds, self.keys, self.sketch)

    @classmethod
    def of_shard(cls, ordinal: int, signs: Signs) -> Self:
        """The samples of a shard that nothing has dropped so far."""
        stays = np.ones(len(signs.splits), bool)
        stays[[drop.place for drop in signs.drops]] = False
        places = np.flatnonzero(stays)
        return cls(
            ordinals=np.full(len(places), ordinal),
            places=places,
            splits=signs.splits[places],
            hashes=signs.hashes[places],
            kinds=signs.near.kinds[places],
            keys=signs.near.keys[places],
            sketch=signs.near.sketch[places],
        )

    @classmethod
    def join(cls, rolls: Sequence[Self]) -> Self:
        """One after another, at least one; one alone stays mapped where it is."""
        return (
            rolls[0]
            if len(rolls) == 1
            else cls(
                **{field.name: np.concatenate([getattr(roll, field.name) for roll in rolls]) for field in fields(cls)}
            )
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        table, _ = map_table(path)
        return cls(**{field.name: unfold_rows(table[field.name]) for field in fields(cls)})

    def store(self, path: Path, note: dict[str, Any]) -> None:
        store_table(path, pa.table({field.name: fold_rows(getattr(self, field.name)) for field in fields(self)}), note)
