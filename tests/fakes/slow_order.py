"""The order of samples a second time, slow and obvious: explicit lists of tokens, or of samples, instead of arithmetic.

Shares only the keyed numbers with orchestrator/data; it is the oracle that order.py is checked against."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.core.keyed import key, permute, text_key
from tests.fakes.corpus import FakeManifest

Token = tuple[int, int, int]  # ordinal, place in the shard, number in the document; 0 where samples are fed whole
ORDER = text_key("longhaul order")


@dataclass(frozen=True)
class SlowSlot:
    position: int
    source: int
    unit: int
    index: int
    lane: int
    tokens: tuple[Token, ...]


def shuffled(values, with_key):
    return [values[int(i)] for i in permute(range(len(values)), len(values), with_key)]


@dataclass(frozen=True)
class SlowLayout:
    """How units are laid out: like orchestrator.data.ordering.row.Shuffling."""

    seq_len: int | None
    window_samples: int
    lanes: int | str
    window_bytes: int | None = None
    run_samples: int = 1

    def lanes_of(self, num_shards):
        if self.lanes != "auto":
            return self.lanes
        return max(lanes for lanes in (1, 2, 4, 8, 16, 32, 64, 128) if lanes == 1 or lanes * 8 <= num_shards)


def slow_unit(manifest, ordinals, unit_key, layout):
    """What the unit gives, turn by turn: (index, lane, tokens of the sequence or the sample)."""
    ordinals = shuffled(list(ordinals), key(unit_key, 1))
    in_windows = unit_of_samples if layout.seq_len is None else unit_of_sequences
    in_order = [one for window in in_windows(manifest, ordinals, unit_key, layout) for one in window]
    return take_in_turn(in_order, layout.lanes_of(len(ordinals)))


def cut_windows(ordinals, amounts_and_limits):
    """Shards in windows: one ends with the shard in which a multiple of a limit is reached, of any of the amounts."""
    windows, fills = [[]], [0] * len(amounts_and_limits)
    for ordinal in ordinals:
        windows[-1].append(ordinal)
        before = list(fills)
        fills = [fill + int(amounts[ordinal]) for fill, (amounts, _) in zip(fills, amounts_and_limits, strict=True)]
        limits = [limit for _, limit in amounts_and_limits]
        if any(new // limit > old // limit for new, old, limit in zip(fills, before, limits, strict=True)):
            windows.append([])
    return windows


def unit_of_samples(manifest, ordinals, unit_key, layout):
    """Windows of samples: (index, tokens), in keyed order, in runs."""
    limits = [(manifest.kept("train"), layout.window_samples)]
    if layout.window_bytes is not None:
        limits.append((manifest.sizes("train"), layout.window_bytes))
    index = 0
    for number, shards in enumerate(cut_windows(ordinals, limits)):
        samples = []
        for ordinal in shards:
            for place in manifest.places(ordinal, "train"):
                samples.append((index, ((ordinal, int(place), 0),)))
                index += 1
        runs = [samples[at : at + layout.run_samples] for at in range(0, len(samples), layout.run_samples)]
        rest = [runs.pop()] if runs and len(runs[-1]) < layout.run_samples else []
        runs = shuffled(runs, key(unit_key, 2, number))
        at = int(key(unit_key, 4, number)) % (len(runs) + 1)
        yield [sample for run in runs[:at] + rest + runs[at:] for sample in run]


def unit_of_sequences(manifest, ordinals, unit_key, layout):
    """Windows of packed sequences: (index, tokens), in keyed order."""
    seq_len = layout.seq_len
    windows = cut_windows(ordinals, [(manifest.totals("train"), layout.window_samples * seq_len)])
    stream, window_ends = [], []
    for number, shards in enumerate(windows):
        documents = [
            [(ordinal, int(place), n) for n in range(manifest.shards[ordinal].documents[place].size)]
            for ordinal in shards
            for place in manifest.places(ordinal, "train")
        ]
        for document in shuffled(documents, key(unit_key, 3, number)):
            stream += document
        window_ends.append(len(stream))
    sequences = [
        (at // seq_len, tuple(stream[at : at + seq_len + 1])) for at in range(0, max(0, len(stream) - 1), seq_len)
    ]
    for number, (begin, end) in enumerate(pairwise([0, *window_ends])):
        of_window = [sequence for sequence in sequences if begin <= sequence[0] * seq_len < end]
        yield shuffled(of_window, key(unit_key, 2, number))


def take_in_turn(items, lanes):
    """Cut into lanes as equal as can be, the first ones longer, and deal one of each in turn."""
    cuts, at = [], 0
    for lane in range(lanes):
        size = len(items) // lanes + (lane < len(items) % lanes)
        cuts.append([(index, lane, tokens) for index, tokens in items[at : at + size]])
        at += size
    return [cut[turn] for turn in range(len(cuts[0])) for cut in cuts if turn < len(cut)]


def slow_row(manifest: FakeManifest, source: int, seed: int, layout: SlowLayout) -> Iterator[tuple]:
    """A source's endless row: (unit, index, lane, tokens)."""
    row_key = key(key(ORDER, seed), 2, source)
    segments = manifest.segments_of(source)
    unit = 0
    while True:
        if unit < len(segments):
            ordinals, unit_key = segments[unit], key(row_key, 0, unit)
        else:
            ordinals = [ordinal for segment in segments for ordinal in segment]
            unit_key = key(row_key, unit - len(segments) + 1, 0)
        for index, lane, tokens in slow_unit(manifest, ordinals, unit_key, layout):
            yield unit, index, lane, tokens
        unit += 1


def slow_batches(manifest, *, seed, quotas, global_batch, **layout) -> Iterator[list[SlowSlot]]:
    """Global batches in order, for one phase; `layout` are the fields of SlowLayout."""
    rows = [slow_row(manifest, n, seed, SlowLayout(**layout)) for n in range(len(quotas))]
    cards = [source for source, quota in enumerate(quotas) for _ in range(quota)]
    block, turns, position = 0, [], 0
    while True:
        batch = []
        for _ in range(global_batch):
            if not turns:
                turns = shuffled(cards, key(key(key(ORDER, seed), 1), 0, block))[::-1]
                block += 1
            source = turns.pop()
            unit, index, lane, tokens = next(rows[source])
            batch.append(SlowSlot(position, source, unit, index, lane, tokens))
            position += 1
        yield sorted(batch, key=lambda slot: (slot.lane, slot.source, slot.unit, slot.index))
