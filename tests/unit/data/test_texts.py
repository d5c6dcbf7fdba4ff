"""A text as tokens: cut, ended by its mark, filled up."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from orchestrator.core.errors import DataError
from orchestrator.data.decoding.texts import CHARACTERS_A_TOKEN, TextReader, parse_tokenizer
from orchestrator.data.shards.chain import TokenizerInfo

WORDS = ["<end>", "a", "b", "c", "?"]


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    return TokenizerInfo(path=str(path), id="words", vocab_size=5, end_id=0, token_bytes=2)


def read(info, *texts, seq_len=4, failures=None):
    columns = TextReader(info, seq_len)({"text": list(texts), "label": list(range(len(texts)))}, failures or {})
    return [None if row is None else row.tolist() for row in columns["tokens"]], columns


def test_texts_end_with_their_mark_and_are_filled_up_with_it(info):
    tokens, columns = read(info, "a b", "c", "")
    assert tokens == [[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]]
    assert columns["length"] == [3, 2, 1]
    assert columns["label"] == [0, 1, 2]
    assert "text" not in columns


def test_a_text_too_long_is_cut_and_still_ends(info):
    tokens, columns = read(info, "a b c a b c")
    assert (tokens, columns["length"]) == ([[1, 2, 3, 0]], [4])


def test_no_more_is_looked_at_than_may_be_fed(info):
    tokens, _ = read(info, "a" + " " * (4 * CHARACTERS_A_TOKEN) + "b")
    assert tokens == [[1, 0, 0, 0]]


def test_what_has_failed_before_stays_a_hole(info):
    tokens, columns = read(info, "a", None, "b", failures={1: "no UTF-8"})
    assert tokens == [[1, 0, 0, 0], None, [2, 0, 0, 0]]
    assert columns["length"][1] is None


def test_a_text_that_is_none_is_named(info):
    with pytest.raises(DataError, match="the field text is a dict, not a text"):
        read(info, {"a": "b"})


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(DataError, match="is no tokenizer"):
        parse_tokenizer(b"{}", "here")
