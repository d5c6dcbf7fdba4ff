import mmap
import random
import unicodedata
from itertools import chain, pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.prepare.near.letters import letter_table
from orchestrator.prepare.near.texts import PIECE_BYTES, VALID, canonical_texts, group_documents, hash_texts

SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
TRICKY = "aé́̀e中文가각ᄀ가กำ้ด़़ \t\u00a0\u2028\u3000\u200b\U0001f600ﬁ;;Å" + SPACES
WRONG = (b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe2\x82", b"\xf8\x88\x80\x80\x80")
tricky_texts = st.text(st.sampled_from(TRICKY) | st.characters(codec="utf-8"), max_size=30)
wrong_texts = st.binary(max_size=12) | st.sampled_from(WRONG) | tricky_texts.map(lambda text: text.encode()[:-1])


def canonical(documents):
    """Laid out with bytes between them that would complete a character, or change it: nobody may look at them."""
    data, begins = b"\xff", []
    for document in documents:
        begins.append(len(data))
        data += document + b"\x80\x80\x80\xcc\x81\xff"
    sizes = np.array([len(document) for document in documents], np.int64)
    return *canonical_texts(data, np.array(begins, np.int64), sizes), data


def read(texts):
    return [texts.data[begin:end].tobytes().decode() for begin, end in zip(texts.begins, texts.ends, strict=True)]


@given(st.lists(tricky_texts, max_size=5))
def test_texts_come_out_in_normal_form(documents):
    texts, wrong, _ = canonical([document.encode() for document in documents])
    assert read(texts) == [unicodedata.normalize("NFC", document) for document in documents]
    assert (wrong == VALID).all()


def test_every_character_alone_and_after_a_letter_comes_out_in_normal_form():
    codes = [*range(0x3200), *range(0xA000, 0xD800), *range(0xE000, 0x12000), *range(0x1D100, 0x1D200), 0x2F800]
    documents = ["".join(f"a{chr(code)} {chr(code)}" for code in codes[i : i + 16]) for i in range(0, len(codes), 16)]
    texts, _, _ = canonical([document.encode() for document in documents])
    assert read(texts) == [unicodedata.normalize("NFC", document) for document in documents]


def test_whatever_can_be_composed_or_put_in_order_is():
    characters = list(map(chr, chain(range(0xD800), range(0xE000, 0x30000))))
    documents = [unicodedata.normalize("NFD", character) for character in characters if character.isprintable()]
    documents = [text for text in documents if len(text) > 1]
    documents += [f"x{mark}\u0334" for mark in characters if unicodedata.combining(mark) > 1]
    texts, _, _ = canonical([document.encode() for document in documents])
    assert len(documents) > 12_000
    assert read(texts) == [unicodedata.normalize("NFC", document) for document in documents]


@given(st.lists(wrong_texts, max_size=6))
def test_the_first_wrong_byte_is_where_python_finds_it(documents):
    texts, wrong, _ = canonical(documents)
    for i, document in enumerate(documents):
        assert wrong[i] == find_wrong_byte(document)
        if wrong[i] != VALID:
            assert texts.begins[i] == texts.ends[i]


def find_wrong_byte(document: bytes) -> int:
    try:
        document.decode()
    except UnicodeDecodeError as error:
        return error.start
    return VALID


def test_no_wrong_sequence_of_bytes_is_taken_for_a_character():
    seconds, thirds = (0x41, *range(0x7E, 0xC2), 0xFF), (0x41, 0x80, 0xBF)
    documents = [bytes([a, b, c]) for a in range(0x80, 0x100) for b in seconds for c in thirds]
    documents += [bytes([a, b, 0x80, d]) for a in range(0xF0, 0xF8) for b in seconds for d in thirds]
    _, wrong, _ = canonical(documents)
    assert wrong.tolist() == [find_wrong_byte(document) for document in documents]


def test_valid_texts_in_normal_form_are_not_copied():
    documents = [b"plain", "é and 中文".encode(), b""]
    texts, _, data = canonical(documents)
    assert np.shares_memory(texts.data, np.frombuffer(data, np.uint8))


def test_a_mapped_file_is_read_where_it_lies(tmp_path):
    (tmp_path / "shard").write_bytes(b"one two")
    with (tmp_path / "shard").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        texts, _ = canonical_texts(mapped, np.array([0, 4]), np.array([3, 3]))
        assert read(texts) == ["one", "two"]
        assert not texts.data.flags.owndata
        del texts


def test_begins_of_the_caller_stay_as_they_are():
    begins = np.array([0])
    canonical_texts("e\u0301".encode(), begins, np.array([3]))
    assert begins.tolist() == [0]


@pytest.mark.parametrize("filler", ["e\u0301", "中e\u0301", "ab é e\u0301"])
def test_a_long_text_is_normalised_in_pieces_as_it_would_be_at_once(filler):
    text = filler * (2 * PIECE_BYTES // len(filler.encode()) + 7) + "\u0301"
    texts, _, _ = canonical([text.encode()])
    assert read(texts) == [unicodedata.normalize("NFC", text)]


@pytest.mark.parametrize("tail", [b"\xe4\xb8", b"a\xe4\xb8z", b"\xff", b"\xe4a"])
def test_a_wrong_byte_far_into_a_long_text_is_found(tail):
    text = "é ".encode() * PIECE_BYTES + tail
    _, wrong, _ = canonical([text])
    assert wrong[0] == find_wrong_byte(text) > PIECE_BYTES


@given(st.lists(tricky_texts, max_size=5))
def test_the_hash_is_of_the_words_with_one_space_between(documents):
    texts, _, _ = canonical([document.encode() for document in documents])
    assert to_numbers(hash_texts(texts)) == [hash_slowly(document) for document in documents]


def to_numbers(hashes):
    return [(int(high) << 64) + int(low) for high, low in hashes]


def hash_slowly(document: str) -> int:
    return xxhash.xxh3_128_intdigest(" ".join(unicodedata.normalize("NFC", document).split()).encode())


def test_every_kind_of_whitespace_separates_and_nothing_else_does():
    documents = [f"a{chr(code)}b" for code in range(0x3100)] + [
        f" {space} a {space}{space}b{space}" for space in SPACES
    ]
    texts, _, _ = canonical([document.encode() for document in documents])
    assert to_numbers(hash_texts(texts)) == [hash_slowly(document) for document in documents]


def test_composed_and_decomposed_texts_have_one_hash():
    text = "Zoë naïve Ångström 각 한국어 กำ"
    texts, _, _ = canonical([unicodedata.normalize(form, text).encode() for form in ("NFC", "NFD")])
    first, second = to_numbers(hash_texts(texts))
    assert first == second


def test_hashes_do_not_depend_on_how_documents_are_grouped():
    draw = random.Random(1)
    block = "".join(draw.choices("ab \n", k=100_000))
    documents = [(block * 50)[:size] for size in (0, 3_000_000, 5_000_000, 10, 0, 2_000_000, 1)]
    texts, _, _ = canonical([document.encode() for document in documents])
    assert to_numbers(hash_texts(texts)) == [hash_slowly(document) for document in documents]


def test_no_documents_have_no_hashes():
    texts, wrong, _ = canonical([])
    assert hash_texts(texts).shape == (0, 2)
    assert len(wrong) == 0


@given(st.lists(st.integers(0, 10), max_size=20))
def test_groups_are_as_large_as_they_may_be(sizes):
    groups = [sizes[some] for some in group_documents(np.array(sizes, np.int64), 12)]
    assert list(chain(*groups)) == sizes
    assert all(sum(group) <= 12 for group in groups)
    assert all(sum(one) + other[0] > 12 for one, other in pairwise(groups))


def test_a_document_longer_than_a_group_stands_alone():
    assert list(group_documents(np.array([5, 99, 5, 5]), 12)) == [slice(0, 1), slice(1, 2), slice(2, 4)]


def test_the_letter_table_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        letter_table()[0] = 1
