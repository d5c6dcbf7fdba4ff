"""Gopher's rules: each bound from both sides, and a plain implementation over random texts."""

import random
import re
from collections import Counter

import pytest

from orchestrator.prepare.clean.gopher import STOP_WORDS, gopher_quality, stop_words
from orchestrator.prepare.clean.repetition import (
    gopher_repetition,
    repeated_lines,
    repeated_ngrams,
    repeated_paragraphs,
)
from orchestrator.prepare.clean.sample import Unfit
from orchestrator.prepare.clean.text import Text

SCRIPTS = [
    "the",
    "of",
    "and",
    "with",
    "wörter",
    "слово",
    "字",
    "x1",
    "42",
    "—",
    "#",
    "...",
    "…",
    "•",
    "-",
    "a\u0301",
    "🙂",
]


def reason(said: Unfit | None) -> str:
    return said.reason if said else ""


def words(count: int, letters: str = "word") -> str:
    return " ".join(["the of", *(f"{letters}{chr(97 + i % 26)}" for i in range(count - 2))])


def test_a_text_of_fifty_words_stays_and_one_of_forty_nine_goes() -> None:
    assert gopher_quality(Text(words(50))) is None
    assert reason(gopher_quality(Text(words(49)))) == "49 words, fewer than 50"
    assert reason(gopher_quality(Text(words(49) + " -- ."))) == "49 words, fewer than 50"  # punctuation is no word


def test_too_many_words_go() -> None:
    assert gopher_quality(Text(words(60)), max_words=60) is None
    assert reason(gopher_quality(Text(words(61)), max_words=60)) == "61 words, more than 60"


def test_mean_length_of_words_has_bounds_on_both_sides() -> None:
    three, ten = " ".join(["the"] * 30 + ["and"] * 30), " ".join(["the"] + ["and"] + ["abcdefghij"] * 58)
    assert gopher_quality(Text(three)) is None
    assert "characters a word, fewer than 3" in reason(gopher_quality(Text(three + " of")))
    assert gopher_quality(Text(ten)) is None
    longer = ten.replace("abcdefghij", "abcdefghijk")
    assert "characters a word, more than 10" in reason(gopher_quality(Text(longer)))


@pytest.mark.parametrize(("mark", "what"), [("#", "hash signs"), ("...", "ellipses"), ("…", "ellipses")])
def test_symbols_may_be_a_tenth_of_the_words(mark: str, what: str) -> None:
    text = words(50).split(" ")
    tenth = " ".join(word + mark if 5 <= i < 10 else word for i, word in enumerate(text))
    assert gopher_quality(Text(tenth)) is None
    assert f"{what} a word, more than 0.1" in reason(gopher_quality(Text(tenth + mark)))


@pytest.mark.parametrize("bullet", ["•", "-", "  • "])
def test_nine_of_ten_lines_may_have_bullets(bullet: str) -> None:
    lines = [f"{bullet} the of word words wordy" for _ in range(18)] + ["the of word", "the of word"]
    assert gopher_quality(Text("\n".join(lines))) is None
    lines[-1] = f"{bullet} the of word"
    assert reason(gopher_quality(Text("\n".join(lines)))) == "0.95 of its lines begin with a bullet, more than 0.9"


@pytest.mark.parametrize("end", ["...", "…", "... "])
def test_three_of_ten_lines_may_end_with_ellipses(end: str) -> None:
    lines = ["the of words and words with that be"] * 10
    most = [line + end if i < 3 else line for i, line in enumerate(lines)]
    assert gopher_quality(Text("\n".join(most))) is None
    more = [line + end if i < 4 else line for i, line in enumerate(lines)]
    assert reason(gopher_quality(Text("\n".join(more)))) == "0.4 of its lines end with an ellipsis, more than 0.3"


def test_a_fifth_of_the_words_may_have_no_letter() -> None:
    text = words(48) + " 1234" * 12
    assert gopher_quality(Text(text)) is None
    assert "of its words have a letter, fewer than 0.8" in reason(gopher_quality(Text(text + " 1234")))


def test_two_different_stop_words_are_enough() -> None:
    assert stop_words(Text("the cat of")) is None
    assert reason(stop_words(Text("the the cat"))).startswith("1 of the stop words the, be, to")
    assert stop_words(Text("die Katze"), 1, ["die", "der"]) is None
    assert stop_words(Text("die, Katze"), 1, ["die", "der"]) is not None  # as they are written
    assert stop_words(Text("die Katze"), 2, ["die", "die"]) is not None


def test_three_of_ten_lines_may_be_repeated() -> None:
    long = [f"line {i} with some words of its own here" for i in range(7)]
    assert repeated_lines(Text("\n".join([*long, "a", "b", "c", "a", "b", "c"])), max_lines=3 / 13) is None
    said = reason(repeated_lines(Text("\n".join([*long, "a", "a", "a", "a", "a"])), max_lines=0.3))
    assert said == "0.3333 of its lines are repeated, more than 0.3"


def test_characters_in_repeated_lines_count_too() -> None:
    text = "x" * 10 + "\n" + "x" * 10 + "\n" + "y" * 28  # 50 characters, of which 10 are repeated
    assert repeated_lines(Text(text), max_lines=1) is None
    said = reason(repeated_lines(Text(text[:-1]), max_lines=1))
    assert said == "0.2041 of its characters are in repeated lines, more than 0.2"


def test_blank_lines_separate_paragraphs_however_many() -> None:
    text = "one\n\ntwo\n\n\none\n\n\n\nthree\n\nfour"
    assert repeated_paragraphs(Text(text)) is None
    assert reason(repeated_paragraphs(Text(text), max_paragraphs=0.1)) == (
        "0.2 of its paragraphs are repeated, more than 0.1"
    )


def test_top_ngrams_count_only_when_they_repeat() -> None:
    assert repeated_ngrams(Text("one two")) is None
    assert "the most frequent 2 words" in reason(repeated_ngrams(Text("one two one two")))


def test_ngrams_may_be_asked_in_any_order() -> None:
    text = Text("a b c d a b e f a b g h")
    assert "the most frequent 2 words" in reason(repeated_ngrams(text, top=[[4, 0.5], [2, 0.1]], duplicate=[]))
    assert "repeated runs of 2 words" in reason(repeated_ngrams(text, top=[], duplicate=[[4, 0.5], [2, 0.1]]))


def test_bounds_of_ngrams_are_the_users() -> None:
    text = Text("a b c d e f a b c d e g h i j k l m n o p q r s")  # five words twice: 5 of 47 characters
    assert repeated_ngrams(text, top=[], duplicate=[[5, 5 / 47]]) is None
    assert "repeated runs of 5 words" in reason(repeated_ngrams(text, top=[], duplicate=[[5, 0.1]]))
    assert repeated_ngrams(text, top=[], duplicate=[[6, 0.0001]]) is None


@pytest.mark.parametrize("text", ["", "a", "字", " ", "\n", "\n\n\n", "#", "\U000e0001"])
def test_empty_and_tiny_texts_are_no_special_case(text: str) -> None:
    assert gopher_repetition(Text(text)) is None
    assert reason(gopher_quality(Text(text))).endswith("words, fewer than 50")


def test_quality_agrees_with_a_plain_implementation() -> None:
    verdicts = Counter()
    for seed in range(400):
        text = make_text(seed)
        bounds = {"min_words": 20, "max_words": 150, "min_mean_length": 2, "max_mean_length": 4}
        said = reason(gopher_quality(Text(text), **bounds))
        expected = plain_quality(text, **bounds)
        assert (expected in said) if expected else not said, (seed, expected, said)
        verdicts[expected] += 1
    assert len(verdicts) >= 8, verdicts
    assert verdicts[""] >= 20


def test_repetition_agrees_with_a_plain_implementation() -> None:
    verdicts = Counter()
    for seed in range(400):
        text = make_text(seed)
        said = reason(gopher_repetition(Text(text)))
        expected = plain_repetition(text)
        assert (expected in said) if expected else not said, (seed, expected, said)
        verdicts[expected] += 1
    assert len(verdicts) >= 8, verdicts
    assert verdicts[""] >= 20


def make_text(seed: int) -> str:
    """Words of several scripts in lines and paragraphs, with more or less repetition."""
    rng = random.Random(seed)
    vocabulary = SCRIPTS + [f"{rng.choice('abcdeß')}{i}" for i in range(rng.choice([5, 60, 800]))]
    plain = rng.random() < 0.6
    known = [word for word in vocabulary if any(map(str.isalpha, word))] if plain else vocabulary
    lines: list[str] = []
    for _ in range(rng.randint(1, 25)):
        line = rng.choice(["", "", "- ", "• ", "  "]) if not plain else ""
        line += " ".join(rng.choices(known, k=rng.randint(1, 14))) + rng.choice(["", ".", "...", "…", " "])
        lines.append(rng.choice(lines) if lines and rng.random() < rng.choice([0, 0.05, 0.3]) else line)
    return "".join(line + rng.choice(["\n", "\n", "\n\n", "\n\n\n", "\u2028", "\r\n"]) for line in lines)


def is_symbol(word: str) -> bool:
    return all(character in "—#.…•-🙂" for character in word)


def plain_quality(text: str, min_words: int, max_words: int, min_mean_length: int, max_mean_length: int) -> str:
    tokens = text.split()
    real = [word for word in tokens if not is_symbol(word)]
    lines = text.splitlines()
    mean = sum(map(len, real)) / max(1, len(real))
    checks = [
        (len(real) < min_words, "words, fewer"),
        (len(real) > max_words, "words, more"),
        (mean < min_mean_length, "characters a word, fewer"),
        (mean > max_mean_length, "characters a word, more"),
        (text.count("#") / len(tokens) > 0.1, "hash signs"),
        ((text.count("...") + text.count("…")) / len(tokens) > 0.1, "ellipses a word"),
        (sum(bool(re.match(r"\s*[•-]", line)) for line in lines) / len(lines) > 0.9, "bullet"),
        (sum(bool(re.search(r"(\.\.\.|…)\s*$", line)) for line in lines) / len(lines) > 0.3, "an ellipsis"),
        (sum(any(c.isalpha() for c in word) for word in tokens) / len(tokens) < 0.8, "have a letter"),
        (len(set(STOP_WORDS) & set(tokens)) < 2, "stop words"),
    ]
    return next((what for wrong, what in checks if wrong), "")


def plain_repetition(text: str) -> str:
    paragraphs = [part for part in re.split(r"\n{2,}", text.strip()) if part]
    lines = [line for line in text.split("\n") if line]
    tokens = text.split()
    for what, parts in (("paragraphs", paragraphs), ("lines", lines)):
        again = [part for i, part in enumerate(parts) if part in parts[:i]]
        if len(again) / len(parts) > 0.3:
            return f"of its {what} are repeated"
        if sum(map(len, again)) / len(text) > 0.2:
            return f"in repeated {what}"
    for n, most in ((2, 0.2), (3, 0.18), (4, 0.16)):
        counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        top, times = counts.most_common(1)[0] if counts else ((), 0)
        if times > 1 and times * len(" ".join(top)) / len(text) > most:
            return f"the most frequent {n} words"
    for n, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1)):
        if count_duplicates(tokens, n) / len(text) > most:
            return f"repeated runs of {n} words"
    return ""


def count_duplicates(tokens: list[str], n: int) -> int:
    seen, characters, at = set(), 0, 0
    while at + n <= len(tokens):
        run = tuple(tokens[at : at + n])
        if run in seen:
            characters += sum(map(len, run))
            at += n
        else:
            seen.add(run)
            at += 1
    return characters
