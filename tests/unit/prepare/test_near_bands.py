import math
import random

import numpy as np
import pytest

from orchestrator.core.errors import BadInput
from orchestrator.prepare.near.bands import SLACK, choose_bands, least_equal, recall_at, recall_curve
from orchestrator.prepare.near.documents import NearRules, Texts
from orchestrator.prepare.near.sign import sign_texts


@pytest.mark.parametrize(
    ("threshold", "recall", "shape"),
    [(0.8, 0.95, (18, 7)), (0.8, 0.94, (16, 8)), (0.7, 0.95, (25, 5)), (0.9, 0.95, (10, 12)), (1.0, 0.99, (1, 128))],
)
def test_the_most_rows_that_find_enough_are_chosen(threshold, recall, shape):
    assert choose_bands(threshold, recall) == shape


def test_what_is_chosen_finds_what_was_asked_and_one_row_more_would_not():
    for threshold in (0.3, 0.5, 0.65, 0.75, 0.85, 0.95):
        bands, rows = choose_bands(threshold, 0.95)
        assert recall_at(threshold, bands, rows) >= 0.95 > recall_at(threshold, 128 // (rows + 1), rows + 1)


def test_a_recall_that_no_signature_reaches_is_refused_with_the_best():
    with pytest.raises(BadInput, match=r"finds 0\.999 of the pairs at similarity 0\.5; the best finds 0\.98"):
        choose_bands(0.5, 0.999)


def test_without_the_estimate_recall_is_the_textbook_formula():
    assert recall_at(0.8, 18, 7, slack=1) == pytest.approx(1 - (1 - 0.8**7) ** 18, abs=1e-12)
    assert recall_at(0.8, 18, 7) < recall_at(0.8, 18, 7, slack=1) - 0.001


def test_bytes_that_are_equal_by_chance_count_for_the_estimate_and_not_for_the_bands():
    both_agree, one_by_chance = 0.5**2, 2 * 0.5 * 0.5 / 256
    assert recall_at(0.5, 2, 1, threshold=1, slack=0) == pytest.approx(both_agree + one_by_chance, abs=1e-12)


def test_the_estimate_allows_for_the_slack_and_no_more():
    assert least_equal(0.8, 126) == math.ceil(0.7 * 126)
    assert least_equal(0.8, 100) == 70  # not 71 by a rounding error
    assert least_equal(0.05, 126) == 0


def test_recall_is_that_of_simulated_pairs():
    """Each minimum agrees on its own with the chance of the similarity; other bytes agree once in 256."""
    draw = np.random.default_rng(5)
    for similarity, threshold, bands, rows in ((0.62, 0.6, 32, 4), (0.7, 0.8, 18, 7), (0.8, 0.8, 18, 7)):
        minima = draw.random((20_000, bands, rows)) < similarity
        equal_bytes = (minima | (draw.random(minima.shape) < 1 / 256)).sum((1, 2))
        found = (minima.all(2).any(1) & (equal_bytes >= math.ceil((threshold - SLACK) * bands * rows))).mean()
        expected = recall_at(similarity, bands, rows, threshold=threshold)
        assert found == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 20_000))


def test_recall_is_that_of_real_signatures():
    """Pairs of texts with a known share of common words, one word a shingle."""
    draw = random.Random(3)
    rules = NearRules(threshold=0.8, words=1, characters=1, bands=18, rows=7)
    pairs, common, each = 3000, 64, 12
    similarity = common / (common + 2 * each)
    texts = []
    for _ in range(pairs):
        words = [f"{draw.getrandbits(60):x}" for _ in range(common + 2 * each)]
        texts += [words[: common + each], words[:common] + words[common + each :]]
    signatures = sign_texts(pack([" ".join(words) for words in texts]), rules)
    shared = (signatures.keys[::2] == signatures.keys[1::2]).any(1)
    agreeing = (signatures.sketch[::2] == signatures.sketch[1::2]).sum(1) >= least_equal(0.8, 126)
    expected = recall_at(similarity, 18, 7, threshold=0.8)
    assert (shared & agreeing).mean() == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / pairs))


def test_the_curve_rises_and_names_the_threshold():
    rules = NearRules(threshold=0.83, words=5, characters=10, bands=18, rows=7)
    curve = recall_curve(rules)
    assert dict(curve)[0.83] == recall_at(0.83, 18, 7)
    assert dict(curve)[0.7] < recall_at(0.7, 18, 7) / 2  # the estimate stops most that are so far below the threshold
    assert dict(curve)[1.0] == 1
    assert dict(curve)[0.0] == pytest.approx(0, abs=1e-9)
    assert [recall for _, recall in curve] == sorted(recall for _, recall in curve)


def pack(texts: list[str]) -> Texts:
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded])
    return Texts(np.frombuffer(b"".join(encoded), np.uint8), np.concatenate([[0], ends[:-1]]), ends)
