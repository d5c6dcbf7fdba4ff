"""Rules and steps over plain texts: ratios, repairs, masks; and that nothing takes more than linear time."""
# ruff: noqa: RUF001 - text of other scripts is meant

import time
import unicodedata

import pytest

from orchestrator.config.preparing import CleanStep
from orchestrator.prepare.clean.characters import DIGIT, LETTER, NUM_CODES, UPPER, class_table
from orchestrator.prepare.clean.cleaner import Cleaner
from orchestrator.prepare.clean.masks import EMAILS, IPS, mask_email, mask_ip
from orchestrator.prepare.clean.ratios import (
    digit_ratio,
    length,
    punctuation_ratio,
    symbol_ratio,
    uppercase_ratio,
)
from orchestrator.prepare.clean.repair import control_characters, fix_unicode, whitespace
from orchestrator.prepare.clean.rules import RULES
from orchestrator.prepare.clean.sample import Sample, Unfit
from orchestrator.prepare.clean.text import Text

NEEDS = {"uppercase_ratio": {"max": 0.5}, "punctuation_ratio": {"max": 0.5}}
NO_TEXTS = {"language", "field", "undecodable", "image_size", "aspect", "missing", "outliers"}


def test_characters_beyond_the_table_are_no_letters_digits_punctuation_or_spaces() -> None:
    beyond = map(chr, range(NUM_CODES, 0x110000))
    assert {unicodedata.category(character) for character in beyond} <= {"Cn", "Cf", "Mn", "Co"}


def test_words_and_classes_are_those_of_python() -> None:
    characters = list(map(chr, range(0xD800)))
    text = Text("a".join(characters))
    assert text.words.lengths.tolist() == [len(word) for word in text.split()]
    table = class_table()[: len(characters)]
    assert (table & LETTER > 0).tolist() == [character.isalpha() for character in characters]
    assert (table & DIGIT > 0).tolist() == [character.isdecimal() for character in characters]
    assert (table & UPPER > 0).tolist() == [unicodedata.category(one) in ("Lu", "Lt") for one in characters]


def test_length_counts_characters_and_words() -> None:
    text = Text("zwei Wörter")
    assert length(text, min_characters=11, max_characters=11, min_words=2, max_words=2) is None
    assert length(text, min_characters=12) == Unfit("11 characters, fewer than 12")
    assert length(text, max_characters=10) == Unfit("11 characters, more than 10")
    assert length(text, min_words=3) == Unfit("2 words, fewer than 3")
    assert length(text, max_words=1) == Unfit("2 words, more than 1")


def test_ratios_at_their_bounds() -> None:
    assert symbol_ratio(Text("a b c d e f g h i j #")) is None
    assert symbol_ratio(Text("a b c d e f g h i j##")) == Unfit("0.2 hash signs a word, more than 0.1")
    assert symbol_ratio(Text("a b c… d...")) == Unfit("0.5 ellipses a word, more than 0.1")
    assert digit_ratio(Text("١٢ abcdefgh"), max=2 / 11) is None
    assert digit_ratio(Text("1234abcdef")) == Unfit("0.4 of its characters are digits, more than 0.15")
    assert uppercase_ratio(Text("ÄBcd 12"), max=0.5) is None
    assert uppercase_ratio(Text("ÄBC d"), max=0.5) == Unfit("0.75 of its letters are capitals, more than 0.5")
    assert punctuation_ratio(Text("a.b€"), max=0.5) is None
    assert punctuation_ratio(Text("。.b€"), max=0.5) == Unfit(
        "0.75 of its characters are punctuation or symbols, more than 0.5"
    )


@pytest.mark.parametrize(
    ("seen", "meant"),
    [
        ("CafÃ© und MÃ¼sli", "Café und Müsli"),
        ("itâ€™s â€œsoâ€\x9d", "it’s “so”"),
        ("ÃƒÂ© ÃƒÂ¼", "é ü"),  # misread twice
        ("Ð¿Ñ€Ð¸", "при"),
        ("e\u0301", "é"),  # normal form C
        ("plain", "plain"),
        ("", ""),
        ("Café und Müsli", "Café und Müsli"),
        ("CafÃ© – Müsli", "CafÃ© – Müsli"),  # not all of it fits: not certain
        ("Ã©", "Ã©"),  # one alone is not certain
        ("日本語", "日本語"),
    ],
)
def test_text_that_was_misread_is_read_again_where_that_is_certain(seen: str, meant: str) -> None:
    assert fix_unicode(seen) == meant
    assert fix_unicode(meant) == meant


def test_replacement_characters_have_a_bound() -> None:
    assert fix_unicode("a\ufffd\ufffd", max_replaced=2) == "a\ufffd\ufffd"
    assert fix_unicode("a\ufffd\ufffd", max_replaced=1) == Unfit("2 replacement characters, more than 1")


def test_control_characters_go_and_line_ends_stay() -> None:
    assert control_characters("\ufeffa\x00b\x1b\x7f\x85\tc\r\n") == "ab\tc\r\n"
    assert control_characters("字\u200d🙂") == "字\u200d🙂"


def test_whitespace_is_tidied() -> None:
    assert whitespace("a  b\u3000\t c \r\nd\r\r\n\n\n\n  e   f\n\n") == "a b c\nd\n\n  e f"
    assert whitespace("a\n\n\n\nb", max_blank_lines=0) == "a\nb"
    assert whitespace("a\n\n\n\nb", max_blank_lines=2) == "a\n\n\nb"
    assert whitespace("a   b  ", runs=False) == "a   b"
    assert whitespace(" \n \n") == ""


@pytest.mark.parametrize(
    "address", ["a@b.co", "john.doe+x@mail.example.org", "o'neil@x-y.de", "..dots@here.com", "a..b@here.com"]
)
def test_email_addresses_are_masked(address: str) -> None:
    assert mask_email(f"Write to {address}, or not.") == f"Write to {EMAILS[0]}, or not."


@pytest.mark.parametrize("text", ["a@b", "@home.org x", "a @ b.org", "me@", "a@-x.org", ""])
def test_what_is_no_email_address_stays(text: str) -> None:
    assert mask_email(text) == text


def test_stand_ins_come_in_turn_and_begin_anew_with_each_text() -> None:
    text = "a@b.org c@d.org e@f.org"
    assert mask_email(text) == " ".join([*EMAILS, EMAILS[0]])
    assert mask_email(text) == mask_email(text)
    assert mask_email(text, ["X"]) == "X X X"


def test_public_ip_addresses_are_masked_and_others_stay() -> None:
    assert mask_ip("at 8.8.8.8, and 1.1.1.1.") == f"at {IPS[0]}, and {IPS[1]}."
    for text in [
        "192.168.0.1",
        "127.0.0.1",
        "10.1.2.3",
        "1.2.3.4.5",
        "256.8.8.8",
        "8.8.8.256",
        "08.8.8.08",
        "1.2.3",
        "v8.8.8.8.1",
    ]:
        assert mask_ip(text) == text
    assert mask_ip("192.168.0.1", public_only=False) == IPS[0]


@pytest.mark.parametrize("name", sorted(RULES.keys() - NO_TEXTS))
@pytest.mark.parametrize("text", ["", "x", "字", "\u0301", "\n", " ", "\U0010ffff", "a\x00b"])
def test_every_rule_takes_texts_of_hardly_anything(name: str, text: str) -> None:
    cleaner = Cleaner.of([CleanStep(name=name, args=NEEDS.get(name, {}))])
    (verdict,) = cleaner.judge([Sample(text)])
    assert verdict is None or (verdict.rule == name and verdict.reason)
    assert isinstance(cleaner.alter([Sample(text)])[0], str)


@pytest.mark.parametrize("piece", ["a-a.", " ", "\n", "a\n", "1.", "a@", "word ", "字", "Ã©", ".", "[", "{ "])
def test_no_rule_takes_more_than_linear_time(piece: str) -> None:
    """For anything that regular expressions like to stumble over: what is quadratic would take hours."""
    sample = Sample(piece * (300_000 // len(piece)))
    begin = time.process_time()
    for name in sorted(RULES.keys() - NO_TEXTS):
        Cleaner.of([CleanStep(name=name, args=NEEDS.get(name, {}))]).judge([sample])
    assert time.process_time() - begin < 15


def test_ten_megabytes_of_prose_take_seconds() -> None:
    names = ("gopher_repetition", "gopher_quality", "c4")
    prose = "".join(f"The {i}th line of the text, and that with number {i * 7919} in it.\n" for i in range(170_000))
    assert len(prose) > 10_000_000
    begin = time.process_time()
    Cleaner.of([CleanStep(name=name, args={"max_words": 10**9} if "qual" in name else {}) for name in names]).judge(
        [Sample(prose)]
    )
    assert time.process_time() - begin < 30
