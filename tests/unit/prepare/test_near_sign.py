import math
import random
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import regex
import xxhash
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.prepare.near.documents import CHARACTERS, EXEMPT, WORDS, NearRules
from orchestrator.prepare.near.kernels import write_keys
from orchestrator.prepare.near.sign import cut_sets, draw_hashes, sign_texts
from orchestrator.prepare.near.texts import canonical_texts

RULES = NearRules(threshold=0.8, words=2, characters=3, bands=18, rows=7)
ONE_WORD = NearRules(threshold=0.8, words=1, characters=1, bands=18, rows=7)
ALPHABET = "aB1_ \n'\u2019—éÉ́ßΣς中文かカーกำ้한국नि्Ж½\U00020000"
texts_of_all_scripts = st.text(st.sampled_from(ALPHABET), max_size=40) | st.text(st.sampled_from("aB 中"), max_size=12)


def pack(documents, before=b""):
    encoded = [document.encode() for document in documents]
    sizes = np.array([len(document) for document in encoded], np.int64)
    texts, _ = canonical_texts(before + b"".join(encoded), len(before) + np.cumsum(sizes) - sizes, sizes)
    return texts


# ---- the same rules, slowly ----

_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_LETTER = regex.compile(r"[\p{L}\p{M}\p{N}_]")
_WORD = regex.compile(rf"{_UNSPACED.pattern}|(?:(?!{_UNSPACED.pattern}){_LETTER.pattern})+")


def cut_slowly(document: str, rules: NearRules) -> tuple[int, set[tuple[str, ...]]]:
    text = unicodedata.normalize("NFC", document)
    letters = _LETTER.findall(text)
    if 2 * sum(bool(_UNSPACED.match(letter)) for letter in letters) > len(letters):
        kind, units, width = CHARACTERS, letters, rules.characters
    else:
        kind, units, width = WORDS, _WORD.findall(text), rules.words
    folded = ["".join(map(fold_slowly, unit)) for unit in units]
    shingles = {tuple(folded[i : i + width]) for i in range(len(folded) - width + 1)}
    return (kind if shingles else EXEMPT), shingles


def fold_slowly(character: str) -> str:
    return next((folded for folded in (character.casefold(), character.lower()) if len(folded) == 1), character)


def sets_of(texts, rules, which=None):
    flat, ends = cut_sets(texts, rules, which)
    return [flat[a:b] for a, b in pairwise(ends)]


@given(st.lists(texts_of_all_scripts, min_size=1, max_size=6))
def test_kinds_and_sets_are_those_of_the_slow_way(documents):
    texts = pack(documents)
    slow = [cut_slowly(document, RULES) for document in documents]
    assert sign_texts(texts, RULES).kinds.tolist() == [kind for kind, _ in slow]
    fast = sets_of(texts, RULES)
    for one, (kind, shingles) in zip(fast, slow, strict=True):
        assert len(one) == len(shingles)
        assert (np.diff(one.astype(object)) > 0).all()  # sorted, each once
        for other, (other_kind, other_shingles) in zip(fast, slow, strict=True):
            if kind == other_kind:
                assert len(np.intersect1d(one, other)) == len(shingles & other_shingles)


def test_long_texts_are_cut_as_the_slow_way_cuts_them():
    draw = random.Random(1)
    words = [f"word{i}" for i in range(3000)] + ["中", "文", "Éé", "x" * 5000]
    first = draw.choices(words, k=20_000)
    second = first[:9_000] + draw.choices(words, k=2_000) + first[12_000:]
    documents = [" ".join(first), ", ".join(second), "天地玄黄".join(map(str, range(9000)))]
    slow = [cut_slowly(document, RULES)[1] for document in documents]
    fast = sets_of(pack(documents), RULES)
    assert [len(shingles) for shingles in fast] == [len(shingles) for shingles in slow]
    assert len(np.intersect1d(fast[0], fast[1])) == len(slow[0] & slow[1])


@pytest.mark.parametrize("width", [1, 2, 5, 32])
def test_signatures_are_the_minima_of_the_sets(width):
    """Sets are cut in one go, signatures block by block: the blocks must not show."""
    draw = random.Random(width)
    rules = NearRules(threshold=0.8, words=width, characters=width, bands=3, rows=4)
    sizes = [width - 1, width, width + 1, 2046, 2047, 2048, 2049, 2048 + width, 4094, 9000]
    documents = [" ".join(f"{draw.randrange(10**6)}" for _ in range(size)) for size in sizes]
    documents += ["".join(draw.choices("天地玄黄宇宙洪荒日月盈昃", k=size)) for size in sizes]
    texts = pack(documents)
    signatures = sign_texts(texts, rules)
    factors, terms = draw_hashes(12)
    for i, shingles in enumerate(sets_of(texts, rules)):
        if sizes[i % len(sizes)] < width:
            assert signatures.kinds[i] == EXEMPT
            assert len(shingles) == 0
            assert not signatures.keys[i].any()
            assert not signatures.sketch[i].any()
        else:
            values = factors * (shingles >> np.uint64(32)).astype(np.uint32)[:, None] + terms
            assert signatures.sketch[i].tolist() == (values.min(0) & 255).tolist()
            assert signatures.keys[i].all()


# ---- the text alone ----


def test_a_signature_does_not_depend_on_neighbours_place_or_threads():
    draw = random.Random(2)
    documents = ["".join(draw.choices(ALPHABET + "abc  ", k=draw.randrange(3000))) for _ in range(60)]
    together = sign_texts(pack(documents), RULES)
    alone = [sign_texts(pack([document], before=b"x" * i), RULES) for i, document in enumerate(documents)]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda document: sign_texts(pack([document]), RULES), documents))
    for many in (alone, threaded):
        for whole, parts in zip(together, zip(*many, strict=True), strict=True):
            assert np.array_equal(whole, np.concatenate(parts))


def test_sets_of_some_documents_are_those_of_all():
    texts = pack(["one two three", "", "four five", "中文字中文字", "one two"])
    whole = sets_of(texts, RULES)
    some = sets_of(texts, RULES, np.array([4, 3, 3, 1]))
    assert [s.tolist() for s in some] == [whole[i].tolist() for i in (4, 3, 3, 1)]
    assert sets_of(texts, RULES, np.array([], np.int64)) == []


def test_sets_do_not_depend_on_how_documents_are_grouped():
    draw = random.Random(6)
    words = [f"{number}" for number in range(99)]
    documents = [
        " ".join(draw.choices(words, k=size)) for size in (0, 1_500_000, 5, 600_000, 700_000)
    ]  # 4 MB, and less
    together = sets_of(pack(documents), RULES)
    alone = [sets_of(pack([document]), RULES)[0] for document in documents]
    assert [len(shingles) for shingles in alone] == [0, 99 * 99, 4, 99 * 99, 99 * 99]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_the_algorithm_is_still_the_one_that_its_name_says():
    """Kept signatures are compared with new ones: if this changes, ALGORITHM must."""
    texts = pack(["The quick brown fox, the lazy dog: 100 times.", "床前明月光\uff0c疑是地上霜", "too short"])
    rules = NearRules(threshold=0.8, words=5, characters=10, bands=18, rows=7)
    parts = [*sign_texts(texts, rules), *cut_sets(texts, rules)]
    assert xxhash.xxh3_64_hexdigest(
        b"".join(part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts)
    ) == ("1ce883ebaa98ffe9")


# ---- what counts as the same text ----


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Über ÉTÉ Straße ΟΔΟΣ", "über été straße οδος"),
        ("AUẞEN STRAẞE", "außen straße"),
        ("naïve Zoë Ångström", unicodedata.normalize("NFD", "naïve Zoë Ångström")),
        ("“Don\u2019t” — he said…", "Don't - he said"),
        ("one\ttwo\u00a0three\n", "one, two; three."),
        ("한국어 문서 비교", unicodedata.normalize("NFD", "한국어, 문서 비교")),
        ("我们去公园散步。然后回家", "我们去公园散步 然后回家"),
        ("ภาษา ไทย ครับ", "ภาษาไทยครับ"),
    ],
)
def test_texts_that_differ_only_in_case_form_or_punctuation_are_the_same(one, other):
    texts = pack([one, other])
    first, second = sets_of(texts, RULES)
    assert first.tolist() == second.tolist() != []
    kinds, keys, sketch = sign_texts(texts, RULES)
    assert kinds[0] == kinds[1]
    assert (keys[0] == keys[1]).all()
    assert (sketch[0] == sketch[1]).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("snake_case and 3.14", ["snake_case", "and", "3", "14"]),
        ("don\u2019t stop—now", ["don", "t", "stop", "now"]),
        ("हिन्दी में नमस्ते", ["हिन्दी", "में", "नमस्ते"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("q̃x ẍ", ["q̃x", "ẍ"]),
        ("한국어는 띄어쓰기가 있다", ["한국어는", "띄어쓰기가", "있다"]),
        ("the kanji 漢字 in a lineup", ["the", "kanji", "漢", "字", "in", "a", "lineup"]),
        ("version2中x", ["version2", "中", "x"]),
    ],
)
def test_words_are_cut_where_people_see_them(text, words):
    folded = [unicodedata.normalize("NFC", word) for word in words]
    texts = pack([text, *folded])
    kinds = sign_texts(texts, ONE_WORD).kinds
    whole, *each = sets_of(texts, ONE_WORD)
    assert kinds[0] == WORDS
    in_words = [shingles for shingles, kind in zip(each, kinds[1:], strict=True) if kind == WORDS]
    assert len(whole) == len(set(folded))
    assert set(np.concatenate(in_words).tolist()) <= set(whole.tolist())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("我们去公园散步", CHARACTERS),
        ("ひらがなとカタカナー", CHARACTERS),
        ("สวัสดีครับวันนี้", CHARACTERS),
        ("ສະບາຍດີຕອນເຊົ້າ", CHARACTERS),
        ("សួស្តីពេលព្រឹក", CHARACTERS),
        ("မင်္ဂလာနံနက်ခင်းပါ", CHARACTERS),
        ("안녕하세요 여러분 반갑습니다", WORDS),
        ("नमस्ते दुनिया और लोग", WORDS),
        ("مرحبا بالعالم كله", WORDS),
        ("ab 中文", WORDS),  # half is not more than half
        ("ab 中文字", CHARACTERS),
        ("...!!! “—” 。、", EXEMPT),
        ("", EXEMPT),
        ("word", EXEMPT),
        ("中文", EXEMPT),
    ],
)
def test_how_a_text_is_cut_follows_from_its_letters(text, kind):
    assert sign_texts(pack([text]), RULES).kinds.tolist() == [kind]


def test_order_of_words_and_of_characters_matters():
    one, other, third, fourth = sets_of(pack(["a b c d", "b a d c", "天地玄", "玄地天"]), RULES)
    assert not set(one.tolist()) & set(other.tolist())
    assert not set(third.tolist()) & set(fourth.tolist())


def test_a_key_is_of_the_kind_and_of_every_minimum_of_its_band():
    minima = np.arange(12, dtype=np.uint32)
    keys = make_keys(minima, WORDS)
    assert not (keys == make_keys(minima, CHARACTERS)).any()
    for changed in range(12):
        other = minima.copy()
        other[changed] += 1
        assert np.flatnonzero(make_keys(other, WORDS) != keys).tolist() == [changed // 4]


def make_keys(minima: np.ndarray, kind: int) -> np.ndarray:
    keys = np.empty(3, np.uint32)
    write_keys(minima, kind, keys)
    return keys


# ---- how good the estimates are ----


def draw_pair(draw: random.Random, similarity: float, size: int) -> tuple[list[str], list[str], float]:
    common = round(2 * size * similarity / (1 + similarity))
    words = [f"{draw.getrandbits(60):x}" for _ in range(2 * size - common)]
    return words[:size], words[:common] + words[size:], common / len(words)


@pytest.mark.parametrize("similarity", [0.5, 0.8, 0.9])
@pytest.mark.parametrize(("size", "pairs"), [(50, 1500), (500, 400), (2000, 100)])
def test_estimates_are_unbiased_and_as_certain_as_theory_says(similarity, size, pairs):
    draw = random.Random(size)
    drawn = [draw_pair(draw, similarity, size) for _ in range(pairs)]
    kinds, _, sketch = sign_texts(
        pack([" ".join(words) for one, other, _ in drawn for words in (one, other)]), ONE_WORD
    )
    assert (kinds == WORDS).all()
    equal = (sketch[::2] == sketch[1::2]).mean(1)
    estimates = (equal - 1 / 256) / (1 - 1 / 256)
    true = drawn[0][2]
    variance = true * (1 - true) / 126
    assert estimates.mean() == pytest.approx(true, abs=4.5 * math.sqrt(variance / pairs))
    assert estimates.var() == pytest.approx(variance, rel=0.03 + 4.5 * math.sqrt(2 / pairs))


def test_estimates_agree_with_those_of_datasketch():
    draw = random.Random(9)
    errors = {"ours": [], "theirs": []}
    for similarity in np.linspace(0.3, 0.95, 25):
        one, other, true = draw_pair(draw, similarity, 300)
        texts = pack([" ".join(one), " ".join(other)])
        sketch = sign_texts(texts, ONE_WORD).sketch
        theirs = [MinHash(num_perm=126, hashfunc=int) for _ in range(2)]
        for minhash, shingles in zip(theirs, sets_of(texts, ONE_WORD), strict=True):
            minhash.update_batch((shingles & np.uint64(0xFFFFFFFF)).tolist())
        errors["ours"].append((sketch[0] == sketch[1]).mean() - true)
        errors["theirs"].append(theirs[0].jaccard(theirs[1]) - true)
    for values in errors.values():
        assert np.mean(values) == pytest.approx(0, abs=4 * 0.04 / 5)
        assert np.sqrt(np.mean(np.square(values))) < 0.06
    assert np.abs(np.subtract(*errors.values())).max() < 4.5 * math.sqrt(2 * 0.25 / 126)
