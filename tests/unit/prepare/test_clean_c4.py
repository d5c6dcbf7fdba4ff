"""C4's and FineWeb's rules: each by hand, and C4 against a plain implementation over random texts."""
# ruff: noqa: RUF001 - text of other scripts is meant

import random
import re
from collections import Counter

import pytest

from orchestrator.prepare.clean.c4 import POLICIES, c4
from orchestrator.prepare.clean.fineweb import fineweb_quality
from orchestrator.prepare.clean.sample import Unfit
from orchestrator.prepare.clean.text import Text

GOOD = ["One sentence stands here.", "Two of them? Yes, two!", 'He said: "It is three."', "And here is the last one."]


def reason(said: str | Unfit | None) -> str:
    return said.reason if isinstance(said, Unfit) else ""


def test_prose_stays_as_it_is() -> None:
    assert c4(Text("\n".join(GOOD))) == "\n".join(GOOD)


def test_five_sentences_are_enough_and_four_are_not() -> None:
    assert c4(Text("\n".join([*GOOD[1:], "A fifth is here."]))) != ""
    assert reason(c4(Text("\n".join(GOOD[1:])))) == "4 sentences, fewer than 5"


@pytest.mark.parametrize(
    "line",
    [
        "Home | About | Contact",  # no end
        "There is more to come...",
        "a b c...",
        "a b c…",
        "Two words.",
        "JavaScript must be switched on.",
        "We tell you that this site uses cookies.",
        "Read our Privacy Policy before you go on.",
        "A word of " + "x" * 1001 + " letters.",
        "",
        "   ",
        "See this [",
    ],
)
def test_a_line_that_is_no_prose_goes(line: str) -> None:
    assert c4(Text("\n".join([*GOOD[:2], line, *GOOD[2:]]))) == "\n".join(GOOD)


@pytest.mark.parametrize(
    "line",
    [
        "Three words stay.",
        "A word of " + "x" * 1000 + " letters.",
        "It is called java script here.",
        "Ends with a quote 'so'",
        "(That one ends inside.)'",
    ],
)
def test_a_line_just_inside_the_bounds_stays(line: str) -> None:
    assert c4(Text("\n".join([*GOOD, line]))) == "\n".join([*GOOD, line])


def test_lines_are_stripped_and_citations_go() -> None:
    text = "\n".join(
        ["  " + GOOD[0] + "\t", *GOOD[1:3], "Berlin is large.[12][citation needed]", "This ends here.[edit]"]
    )
    assert c4(Text(text)) == "\n".join([*GOOD[:3], "Berlin is large.", "This ends here."])
    assert c4(Text(text), citations=False, min_sentences=4) == "\n".join(GOOD[:3])


def test_a_page_with_a_curly_bracket_or_lorem_ipsum_goes() -> None:
    assert reason(c4(Text("\n".join([*GOOD, "if (x) { return 1 }."])))) == "it has a line with a curly bracket"
    assert reason(c4(Text("\n".join([*GOOD, "Lorem Ipsum dolor sit."])))) == "it has a line with 'lorem ipsum'"


def test_what_stands_in_a_line_that_goes_anyway_drops_no_page() -> None:
    text = "\n".join([*GOOD, "if (x) { return 1 }", "lorem ipsum", "This javascript { } goes first."])
    assert c4(Text(text)) == "\n".join(GOOD)


def test_each_rule_can_be_switched_off() -> None:
    lines = [*GOOD, "Lorem ipsum { javascript } and the privacy policy", "x"]
    everything = {"lorem_ipsum": False, "curly_brackets": False, "javascript": False, "policies": False}
    said = c4(Text("\n".join(lines)), min_line_words=0, line_ends=False, **everything)
    assert said == "\n".join(lines)


def test_sentences_of_other_scripts_count() -> None:
    assert c4(Text("这是 第一 句。 这是 第二 句。 还有 吗？ 有 的！ 好。"), line_ends=False) != ""
    assert reason(c4(Text("Это одно. Это 3.5 метра. А это e.g. так"), line_ends=False)) == "4 sentences, fewer than 5"


@pytest.mark.parametrize("text", ["", "a", "字", "\n", "{", "["])
def test_empty_and_tiny_texts_have_too_few_sentences(text: str) -> None:
    assert reason(c4(Text(text))).endswith("sentences, fewer than 5")


def test_c4_agrees_with_a_plain_implementation() -> None:
    verdicts = Counter()
    for seed in range(1000):
        text = make_page(seed)
        said, expected = c4(Text(text)), plain_c4(text)
        assert (reason(said) if isinstance(said, Unfit) else said) == expected, seed
        verdicts[re.sub(r"\d", "", reason(said))] += 1
    assert len(verdicts) == 4, verdicts
    assert min(verdicts.values()) >= 10, verdicts


def make_page(seed: int) -> str:
    rng = random.Random(seed)
    rare = ["{", "lorem ipsum", "[12]", "[edit]", "[citation needed]", "JavaScript", "[x]", "Cookie policy", *POLICIES]
    words = ["the", "Straße", "слово", "字", "İ", "e.g.", "3.5", '"so"', "(yes.)", "yes.[4]", "x" * 1001]
    weights = [20, 8, 8, 5, 1, 1, 1, 1, 1, 0.5, 0.05]
    often = rng.choice([0, 0, 0.01, 0.05, 0.1])
    lines = []
    for _ in range(rng.randint(1, 12)):
        line = [
            rng.choice(rare) if rng.random() < often else rng.choices(words, weights)[0]
            for _ in range(rng.randint(0, 9))
        ]
        ends = [".", "?", "!", '."', "...", "", ". And more.", "'", ".[3]", "。", "”"]
        lines.append(rng.choice(["", " ", "\t"]) + " ".join(line) + rng.choice(ends) + rng.choice(["", "", " ", "\t "]))
    return "".join(line + rng.choice(["\n", "\n", "\r\n", "\n\n", "\u2028", "\x85", "\r"]) for line in lines)


def plain_c4(text: str) -> str:
    kept, sentences = [], 0
    for raw in text.splitlines():
        line = raw.strip()
        words = line.split()
        if any(len(word) > 1000 for word in words):
            continue
        line = re.sub(r"\[\d*]|\[edit]|\[citation needed]", "", line)
        if not re.search(r"[.?!\"']$", line) or line.endswith("...") or len(words) < 3:
            continue
        if "lorem ipsum" in line.lower():
            return "it has a line with 'lorem ipsum'"
        if "javascript" in line.lower():
            continue
        if "{" in line:
            return "it has a line with a curly bracket"
        if any(policy in line.lower() for policy in POLICIES):
            continue
        ends = [bool(re.search(r"[.!?…。][.!?…。\"')\]}»”’」』]*$", word)) for word in line.split()]
        sentences += sum(ends) + (not ends[-1])
        kept.append(line)
    return f"{sentences} sentences, fewer than 5" if sentences < 5 else "\n".join(kept).strip()


def test_fineweb_bounds() -> None:
    prose = "This is a line of prose that is long enough to be one of the long ones, and it ends {}."
    good = [prose.format(i) for i in range(12)]
    assert fineweb_quality(Text("\n".join(good))) is None
    assert reason(fineweb_quality(Text(" \n"))) == "it has no lines"
    open_ends = [line[:-1] for line in good]
    assert "of its lines end a sentence, fewer than 0.12" in reason(fineweb_quality(Text("\n".join(open_ends))))
    assert fineweb_quality(Text("\n".join([*open_ends[: 22 // 2], good[-1], good[0]]))) is None
    short = [*good[:4], *(f"Short number {i} is this one." for i in range(9))]
    assert "of its lines have 30 characters or fewer, more than 0.67" in reason(fineweb_quality(Text("\n".join(short))))
    assert "in repeated lines, more than 0.01" in reason(fineweb_quality(Text("\n".join([*good, good[0]]))))
    wordless = "\n".join(f"{'x' * 31}{i} y." for i in range(20))
    assert "line breaks a word, more than 0.3" in reason(fineweb_quality(Text(wordless)))
