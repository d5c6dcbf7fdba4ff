"""What preparing still has to do: reads listings, heads and names of files, opens no shard. run.py does it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from orchestrator.config.data import DataSection
from orchestrator.config.preparing import TokensSection
from orchestrator.config.run import RunConfig
from orchestrator.data.shards.chain import NO_TOKENIZER, TokenizerInfo, read_heads
from orchestrator.data.shards.demo import make_demo
from orchestrator.data.shards.manifest import Manifest
from orchestrator.data.shards.source import Dataset, History, Segment
from orchestrator.prepare.rules import Rules, hash_json
from orchestrator.prepare.tokenizer import find_tokenizer, import_tokenizer
from orchestrator.storage.publish import read_json
from orchestrator.storage.stores import StoreSettings
from orchestrator.storage.workplace import WorkPlace, hash_text


@dataclass(frozen=True, kw_only=True)
class Steps:
    """`unseen`: committed segments of which this copy of the data must be compared with the chain. `open`: segments to
    prepare and commit, new ones or such whose files were lost. `tokenizer` is None when it must be trained first."""

    work: WorkPlace
    chain: str
    stores: StoreSettings
    rules: Rules
    tokens: TokensSection | None
    dataset: Dataset
    manifest: Manifest | None
    tokenizer: TokenizerInfo | None
    unseen: list[Segment]
    open: list[Segment]

    @property
    def finished(self) -> bool:
        return self.tokenizer is not None and not self.unseen and not self.open

    def first(self, most: int) -> Self:
        """Only what is still to do for the first `most` segments, or for as many as were committed before."""
        committed = len(self.manifest.segments) if self.manifest is not None else 0
        return replace(self, open=[segment for segment in self.open if segment.number < max(most, committed)])


def make_demos(data: DataSection) -> None:
    """Make the demo sources that are not there yet."""
    for source in data.train:
        if source.demo is not None:
            make_demo(source.demo, Path(source.path))


def prepare_steps(config: RunConfig) -> Steps:
    """Look at the data and the work place. A tokenizer given as a file is copied into the work place."""
    tokens = config.prepare.tokens
    work, rules = WorkPlace.at(config.data.work), Rules.of(config)
    tokenizer = _given_tokenizer(work, tokens)
    chain = name_chain(config.data, rules, tokenizer.id if tokenizer else f"BPE {tokens and tokens.train_bpe}")
    heads = read_heads(work, chain)
    manifest = Manifest(work, chain, heads, {}) if heads else None
    history = History()
    if manifest is not None:
        segments = [Segment(number=head.number, ordinals=head.ordinals, append=head.append) for head in heads]
        history = History(names=manifest.shard_names(), segments=segments)
        tokenizer = find_tokenizer(work, manifest.tokenizer.id) if manifest.has_tokenizer else NO_TOKENIZER
    dataset = Dataset.list(config.data, history)
    seen = read_seen(work, chain, dataset)
    lost = _find_lost(manifest, list(history.segments), rules.compares) if manifest is not None else []
    return Steps(
        work=work,
        chain=chain,
        stores=StoreSettings.of(config.data),
        rules=rules,
        tokens=tokens,
        dataset=dataset,
        manifest=manifest,
        tokenizer=tokenizer,
        unseen=[
            segment for segment in history.segments if seen.get(str(segment.number)) != stamp_segment(dataset, segment)
        ],
        open=lost + dataset.segments[len(heads) :],
    )


def _given_tokenizer(work: WorkPlace, tokens: TokensSection | None) -> TokenizerInfo | None:
    """The one that can be had without reading a shard; None when it must be trained."""
    if tokens is None:
        return NO_TOKENIZER
    return import_tokenizer(work, tokens.tokenizer) if tokens.tokenizer is not None else None


def name_chain(data: DataSection, rules: Rules, tokenizer: str) -> str:
    """The chain that this dataset's segments are appended to: all that decides ordinals and verdicts."""
    sources = [[source.label, source.weight] for source in data.train]
    return hash_json(["chain 2", sources, data.segment_shards, data.segment_bytes, rules.id, tokenizer])


def stamp_segment(dataset: Dataset, segment: Segment) -> str:
    """Changes when a shard of the segment may have changed."""
    return hash_text("\n".join(dataset.stamps[segment.ordinals.start : segment.ordinals.stop]))


def read_seen(work: WorkPlace, chain: str, dataset: Dataset) -> dict[str, str]:
    """Stamps of the segments that this copy of the data was found to agree with."""
    path = work.seen(chain, dataset.roots)
    return dict(read_json(path)["segments"]) if path.exists() else {}


def _find_lost(manifest: Manifest, segments: list[Segment], compares: bool) -> list[Segment]:
    """Committed segments some of whose files are gone. Lists folders only."""
    work, chain = manifest.work, manifest.chain
    tables = ("samples", "drops", "verdicts", "roll") if compares else ("samples", "drops")
    there = set(_walk(work.prepared(manifest.segments[0].rules, manifest.tokenizer.id))) | set(_walk(work.chain(chain)))
    lost = []
    for segment in segments:
        needed = [work.segment_table(chain, segment.number, name) for name in tables]
        needed += [manifest.tokens_path(ordinal) for ordinal in segment.ordinals]
        if not there.issuperset(str(path) for path in needed):
            lost.append(segment)
    return lost


def _walk(folder: Path) -> list[str]:
    return [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]  # noqa: PTH118  10^6 Paths take seconds
