"""The order of samples a second time, slow and obvious: explicit lists of tokens instead of arithmetic.

Shares only the keyed numbers with orchestrator/data; it is the oracle that order.py is checked against."""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.core.keyed import key, permute, text_key
from tests.fakes.corpus import FakeManifest

Token = tuple[int, int, int]  # ordinal, place in the shard, number in the document
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


def slow_unit(manifest, ordinals, unit_key, seq_len, window, lanes):
    """What the unit gives, turn by turn: (index, lane, tokens of the sequence)."""
    windows, fill = [[]], 0
    for ordinal in shuffled(list(ordinals), key(unit_key, 1)):
        size = int(manifest.lengths(ordinal, "train").sum())
        windows[-1].append(ordinal)
        if (fill + size) // window > fill // window:
            windows.append([])
        fill += size
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
    in_order, begin = [], 0
    for number, end in enumerate(window_ends):
        of_window = [sequence for sequence in sequences if begin <= sequence[0] * seq_len < end]
        in_order += shuffled(of_window, key(unit_key, 2, number))
        begin = end
    return take_in_turn(in_order, lanes)


def take_in_turn(items, lanes):
    """Cut into lanes as equal as can be, the first ones longer, and deal one of each in turn."""
    cuts, at = [], 0
    for lane in range(lanes):
        size = len(items) // lanes + (lane < len(items) % lanes)
        cuts.append([(index, lane, tokens) for index, tokens in items[at : at + size]])
        at += size
    return [cut[turn] for turn in range(len(cuts[0])) for cut in cuts if turn < len(cut)]


def slow_row(manifest: FakeManifest, source: int, seed: int, seq_len, window_samples, lanes) -> Iterator[tuple]:
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
        for index, lane, tokens in slow_unit(manifest, ordinals, unit_key, seq_len, window_samples * seq_len, lanes):
            yield unit, index, lane, tokens
        unit += 1


def slow_batches(manifest, *, seed, quotas, global_batch, seq_len, window_samples, lanes) -> Iterator[list[SlowSlot]]:
    """Global batches in order, for one phase."""
    rows = [slow_row(manifest, n, seed, seq_len, window_samples, lanes) for n in range(len(quotas))]
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
