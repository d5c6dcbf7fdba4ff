"""Why a sample is kept or dropped, of which sample it is a duplicate, and on request both texts.

Reads the tables of a chain; texts come from the raw shards."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.data.shards.index import index_shard
from orchestrator.data.shards.manifest import Manifest
from orchestrator.data.shards.split import SPLITS
from orchestrator.prepare.judging.outside import read_files
from orchestrator.prepare.plan import Steps, prepare_steps
from orchestrator.storage.stores import open_stores

MOST_FOUND = 20  # of one key that many shards have


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """`rule` is empty where a sample is kept; partner and score tell the kept sample that it duplicates, or the text
    from outside that it is like."""

    sample: str
    split: str
    rule: str = ""
    reason: str = ""
    partner: str = ""
    score: float | None = None
    text: str | None = None
    partner_text: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(config: RunConfig, key: str, *, texts: bool) -> list[Explanation]:
    """The samples that `key` names: `shard/key`, or a key alone, which several shards may have."""
    steps = prepare_steps(config)
    manifest = steps.manifest
    if manifest is None:
        raise BadInput("nothing is prepared yet", where=config.data.work, remedy="run longhaul prepare first")
    found = list(_find(manifest, key))
    if not found:
        raise BadInput(
            f"no prepared sample is named {key!r}",
            where="--explain",
            remedy="give shard/key as longhaul shows it, for example demo/00003.tar/email-message, or the key alone",
        )
    reader = _Texts(steps) if texts else None
    return [_explain(manifest, ordinal, place, reader) for ordinal, place in found[:MOST_FOUND]]


def _find(manifest: Manifest, key: str) -> Iterator[tuple[int, int]]:
    names = manifest.shard_names()
    for ordinal, name in enumerate(names):
        if key.startswith(f"{name}/"):
            own = manifest.keys(ordinal)
            yield from ((ordinal, place) for place, one in enumerate(own) if one == key[len(name) + 1 :])
    for number, head in enumerate(manifest.segments):
        rows = np.flatnonzero(pc.equal(manifest.samples(number).key, key).to_numpy())
        sizes = manifest.shard_sizes(number)
        ends = np.cumsum(sizes)
        for row in rows.tolist():
            shard = int(np.searchsorted(ends, row, side="right"))
            yield head.ordinals.start + shard, int(row - ends[shard] + sizes[shard])


def _explain(manifest: Manifest, ordinal: int, place: int, reader: "_Texts | None") -> Explanation:
    number = manifest.segment_of(ordinal)
    row = int(manifest.shard_sizes(number)[: ordinal - manifest.segments[number].ordinals.start].sum()) + place
    split = SPLITS[manifest.samples(number).split[row]]
    table = manifest.drops(number)
    here = pc.and_(pc.equal(table["ordinal"], ordinal), pc.equal(table["place"], place))
    rows = table.filter(here).to_pylist()
    sample, text = _name(manifest, ordinal, place), reader.read(ordinal, place) if reader else None
    if not rows:
        return Explanation(sample=sample, split=split, text=text)
    (drop,) = rows
    partner = (drop["partner_ordinal"], drop["partner_place"])
    if partner[0] is None and drop["score"] is not None:
        return Explanation(
            sample=sample,
            split=split,
            rule=drop["rule"],
            partner=drop["reason"],
            score=drop["score"],
            text=text,
            partner_text=reader.read_outside(drop["reason"]) if reader else None,
        )
    return Explanation(
        sample=sample,
        split=split,
        rule=drop["rule"],
        reason=drop["reason"],
        partner=_name(manifest, *partner) if partner[0] is not None else "",
        score=drop["score"],
        text=text,
        partner_text=reader.read(*partner) if reader and partner[0] is not None else None,
    )


def _name(manifest: Manifest, ordinal: int, place: int) -> str:
    return f"{manifest.shard_name(ordinal)}/{manifest.keys(ordinal, np.array([place]))[0]}"


class _Texts:
    """Reads the text of samples from the raw shards."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self._stores = steps, open_stores(steps.stores)

    def read(self, ordinal: int, place: int) -> str:
        shard, rules = self._steps.dataset.shards[ordinal], self._steps.rules
        index = index_shard(shard, self._steps.work.root, rules.on_bad, self._stores)
        members = index.find_members([rules.compared_member])
        if members.suffix[place] < 0:
            return ""
        opened = self._stores.open(shard.url, index.stamp)
        begin, size = int(members.begin[place]), int(members.size[place])
        opened.need(np.array([begin]), np.array([begin + size]))
        return bytes(opened.data[begin : begin + size]).decode(errors="replace")

    def read_outside(self, name: str) -> str:
        """Of a text of prepare.decontaminate.files; of all on one line, if a line holds several."""
        rules = self._steps.rules
        files = rules.decontaminate.files if rules.decontaminate else []
        return "\n".join(one.text for one in read_files(files, rules.compared_member, self._stores) if one.name == name)
