import numpy as np
import pytest

from orchestrator.core.errors import DataError
from orchestrator.core.words import Span
from orchestrator.data.feeding.read import TokenReader
from tests.fakes.corpus import make_corpus


def read(reader, *spans):
    """The tokens of spans, one after another."""
    columns = np.array(spans).T
    out = np.full(columns[3].sum(), -1)
    reader.fill(out, np.cumsum(columns[3]) - columns[3], columns)
    return out


def test_every_span_of_every_kept_document_is_its_tokens():
    manifest = make_corpus(3)
    for split in ("train", "validation"):
        reader = TokenReader(manifest, split)
        for ordinal, shard in enumerate(manifest.shards):
            for place in manifest.places(ordinal, split).tolist():
                document = shard.documents[place]
                for first in range(document.size):
                    found = read(reader, Span(ordinal, place, first, document.size - first))
                    assert np.array_equal(found, document[first:])


def test_a_sample_of_another_split_is_refused():
    manifest = make_corpus(3)
    ordinal = int(manifest.kept("validation").argmax())
    place = int(manifest.places(ordinal, "validation")[0])
    with pytest.raises(DataError, match=rf"{ordinal:05d}.tar: sample {place} is not kept in split 'train'"):
        read(TokenReader(manifest, "train"), Span(ordinal, place, 0, 1))


def test_tokens_that_are_missing_are_named_and_not_made_up():
    manifest = make_corpus(3)
    ordinal = int(manifest.kept("train").argmax())
    place = int(manifest.places(ordinal, "train")[-1])
    with pytest.raises(DataError, match=r"of the 10000 tokens from token 0 on"):
        read(TokenReader(manifest, "train"), Span(ordinal, place, 0, 10_000))
