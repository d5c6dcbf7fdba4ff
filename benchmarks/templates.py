"""Pages of one template about the similarity from which they are duplicates: time by their number, what was found.

Every two pages are candidates of each other; compared one by one, ten times the pages would take a hundred times as
long. A page has 400 words in common with all others and some of its own, so its similarity to another follows from
their sizes. Signatures are made beforehand and timed apart; verdicts include cutting the shingles again. Run:

    python benchmarks/templates.py [--pages 3000 10000 30000 100000]
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from orchestrator.config.preparing import NearSection
from orchestrator.prepare.near.crowd import Verdicts
from orchestrator.prepare.near.decide import Cost, judge
from orchestrator.prepare.near.documents import NearRules, Texts
from orchestrator.prepare.near.sign import cut_sets, sign_texts

FRAME_WORDS, COMMON_SHINGLES = 400, 392  # of five words; the words of a page's own stand in the middle
ACROSS = 4  # shingles that reach from the own words into the frame
WORD_BYTES = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Pages with between so many words of their own."""

    name: str
    fewest: int
    most: int


CASES = (
    Case(name="just below", fewest=50, most=50),
    Case(name="just below, sizes within 20 %", fewest=6, most=94),
    Case(name="above", fewest=36, most=36),
    Case(name="above, sizes within 20 %", fewest=0, most=80),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    sign_s: float
    judge_s: float
    verdicts: Verdicts
    cost: Cost
    missed: int  # pages that stay although they are like an earlier one that stays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, nargs="+", default=[3_000, 10_000, 30_000, 100_000])
    asked = parser.parse_args()
    rules = NearRules.of(NearSection())
    title = f"threshold {rules.threshold}, {rules.bands} bands of {rules.rows}; seconds of one core"
    table = Table(title=title, title_justify="left")
    for column in ("", "pages", "signing, s", "verdicts, s", "pages / s", "go", "missed", "exact checks"):
        table.add_column(column, justify="right" if column else "left")
    measure(CASES[1], 300, rules)  # compiles
    for case in CASES:
        for count in asked.pages:
            found = measure(case, count, rules)
            gone = int((found.verdicts.partner >= 0).sum())
            speed = f"{count / found.judge_s:,.0f}"
            seconds = f"{found.sign_s:.2f}", f"{found.judge_s:.2f}"
            numbers = (f"{number:,}" for number in (gone, found.missed, found.cost.checks))
            table.add_row(case.name, f"{count:,}", *seconds, speed, *numbers)
    Console().print(table)


def measure(case: Case, count: int, rules: NearRules) -> Measured:
    own_words = np.random.default_rng(0).integers(case.fewest, case.most + 1, count)
    texts = make_pages(own_words)
    began = time.process_time()
    signatures = sign_texts(texts, rules)
    signed = time.process_time()
    verdicts, cost = judge(
        signatures.keys, signatures.sketch, 0, rules.threshold, lambda numbers: cut_sets(texts, rules, numbers)
    )
    judged = time.process_time()
    missed = count_missed(own_words, verdicts.partner, rules.threshold)
    return Measured(sign_s=signed - began, judge_s=judged - signed, verdicts=verdicts, cost=cost, missed=missed)


def make_pages(own_words: NDArray[np.int64]) -> Texts:
    rng = np.random.default_rng(1)
    frame = draw_words(rng, FRAME_WORDS).tobytes()
    half = len(frame) // 2
    pages = [frame[:half] + draw_words(rng, count).tobytes() + frame[half:] for count in own_words]
    ends = np.cumsum([len(page) for page in pages])
    return Texts(np.frombuffer(b"".join(pages), np.uint8), np.concatenate([[0], ends[:-1]]), ends)


def draw_words(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    letters = rng.integers(ord("a"), ord("z") + 1, (count, WORD_BYTES), dtype=np.uint8)
    letters[:, -1] = ord(" ")
    return letters


def count_missed(own_words: NDArray[np.int64], partner: NDArray[np.int64], threshold: float) -> int:
    """The similarity of two pages is greatest with the smallest partner, so that one alone tells."""
    own_shingles = own_words + ACROSS
    missed, smallest = 0, None
    for number in np.flatnonzero(partner < 0):
        own = own_shingles[number]
        if smallest is not None:
            missed += COMMON_SHINGLES / (COMMON_SHINGLES + own + smallest) >= threshold
        smallest = own if smallest is None else min(smallest, own)
    return int(missed)


if __name__ == "__main__":
    main()
