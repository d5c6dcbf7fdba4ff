"""A manifest in memory, with random documents: what order, read, batch and audit need of data/shards/manifest.py."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.row import Shuffling

END_ID = 0
Ints = NDArray[np.int64]


@dataclass
class FakeShard:
    """Documents by place, and the split each is kept in; "" is dropped."""

    source: int
    documents: list[Ints]
    splits: list[str]


@dataclass
class FakeTokenizer:
    end_id: int = END_ID
    vocab_size: int = 1000


@dataclass
class FakeManifest:
    shards: list[FakeShard]
    segments: list[range]
    source_names: list[str]
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    segments_to_come: int = 0

    def prefix(self, num_segments: int) -> "FakeManifest":
        """The manifest of a run that began when there were so many segments."""
        segments = self.segments[:num_segments]
        return FakeManifest(self.shards[: segments[-1].stop], segments, self.source_names)

    def prepared(self, num_segments: int) -> "FakeManifest":
        """The manifest while so many segments are prepared and the others are to come."""
        return replace(self.prefix(num_segments), segments_to_come=len(self.segments) - num_segments)

    def segments_of(self, source: int) -> list[Ints]:
        return [
            np.array([ordinal for ordinal in segment if self.shards[ordinal].source == source], np.int64)
            for segment in self.segments
        ]

    def totals(self, split: str) -> Ints:
        return np.array([self.lengths(ordinal, split).sum() for ordinal in range(len(self.shards))], np.int64)

    def kept(self, split: str) -> Ints:
        return np.array([self.places(ordinal, split).size for ordinal in range(len(self.shards))], np.int64)

    def sizes(self, split: str) -> Ints:
        """Ten bytes a token."""
        return 10 * self.totals(split)

    def places(self, ordinal: int, split: str) -> Ints:
        return np.array([place for place, of in enumerate(self.shards[ordinal].splits) if of == split], np.int64)

    def lengths(self, ordinal: int, split: str) -> Ints:
        documents = self.shards[ordinal].documents
        return np.array([documents[place].size for place in self.places(ordinal, split)], np.int64)

    def tokens(self, ordinal: int) -> NDArray[np.uint16]:
        return np.concatenate([np.empty(0, np.int64), *self.shards[ordinal].documents]).astype(np.uint16)

    def offsets(self, ordinal: int, split: str) -> Ints:
        sizes = [document.size for document in self.shards[ordinal].documents]
        return np.cumsum([0, *sizes])[self.places(ordinal, split)]

    def keys(self, ordinal: int, places: Ints | None = None) -> list[str]:
        wanted = range(len(self.shards[ordinal].documents)) if places is None else places
        return [f"k{place:03d}" for place in wanted]

    def shard_name(self, ordinal: int) -> str:
        return f"{self.source_names[self.shards[ordinal].source]}/{ordinal:05d}.tar"


def make_corpus(
    seed: int = 0,
    *,
    shards_by_segment: tuple[tuple[int, ...], ...] = ((5, 3), (4, 2), (2, 1)),
    most_documents: int = 8,
    most_tokens: int = 40,
    train_share: float = 0.8,
) -> FakeManifest:
    """`shards_by_segment[segment][source]` shards of random documents, some of them dropped or kept for validation."""
    rng = np.random.default_rng(seed)
    shards: list[FakeShard] = []
    segments = []
    for counts in shards_by_segment:
        sources = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        segments.append(range(len(shards), len(shards) + sources.size))
        shards += [_make_shard(rng, int(source), most_documents, most_tokens, train_share) for source in sources]
    return FakeManifest(shards, segments, [f"source{n}" for n in range(len(shards_by_segment[0]))])


def _make_shard(rng: np.random.Generator, source: int, documents: int, tokens: int, train_share: float) -> FakeShard:
    count = int(rng.integers(0, documents + 1))
    rest = (1 - train_share) / 2
    return FakeShard(
        source,
        [np.append(rng.integers(1, 1000, rng.integers(0, tokens)), END_ID) for _ in range(count)],
        rng.choice(["train", "validation", ""], count, p=[train_share, rest, rest]).tolist(),
    )


def make_order(manifest: FakeManifest, **changes: object) -> Order:
    """An order over a fake manifest; windows and lanes small enough to matter."""
    arguments: dict[str, object] = {
        "seed": 5,
        "weights": [1.0] * len(manifest.source_names),
        "global_batch": 6,
        "seq_len": 7,
        "shuffling": Shuffling(window_samples=12, lanes=3),
    }
    return Order(manifest, **{**arguments, **changes})  # type: ignore[arg-type]
