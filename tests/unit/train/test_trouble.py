"""The rule for losses that leap, and whose fault it is, worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.config.running import SpikeSection
from orchestrator.core.news import FedBy, TroubleNews
from orchestrator.data.feeding.batch import RankBatch, ReadFigures
from orchestrator.data.ordering.ledger import Sums
from orchestrator.data.ordering.unit import SpanTable
from orchestrator.train.engine import StepResult
from orchestrator.train.trouble import LossWatch, Trouble, Update, find_fed, find_not_finite, judge_loss

RULE = SpikeSection(steps=4, deviations=2.0, least_rise=0.0)


class NamesByPlace:
    def shard_name(self, ordinal):
        return f"shard{ordinal}"

    def keys(self, ordinal, places):
        return [f"key{place}" for place in places]


def batch_of(rows: int) -> RankBatch:
    """One sample a row, each of weight one."""
    numbers = np.arange(rows)
    zeros = np.zeros(rows, np.int64)
    return RankBatch(
        step=0,
        fields={"weights": np.ones(rows, np.float32)},
        weight=float(rows),
        slots=range(rows),
        fed=SpanTable(*(numbers if name in ("row", "place") else zeros for name in SpanTable._fields)),
        sums=Sums(),
        count=rows,
        figures=ReadFigures(),
    )


def test_nothing_is_a_leap_before_there_are_enough_losses():
    watch = LossWatch(RULE, [1.0, 3.0, 1.0])
    assert watch.limit == math.inf
    watch.remember(3.0)
    assert watch.limit == pytest.approx(2.0 + 2.0 * 1.0), "mean 2, deviation 1"


def test_the_oldest_loss_is_forgotten_and_what_is_no_number_is_not_remembered():
    watch = LossWatch(RULE, [9.0, 1.0, 3.0, 1.0])
    for loss in (math.nan, math.inf, 3.0):
        watch.remember(loss)
    assert watch.losses == (1.0, 3.0, 1.0, 3.0)


def test_losses_that_hardly_differ_must_rise_by_the_least_share():
    watch = LossWatch(SpikeSection(steps=2, deviations=6.0, least_rise=0.1), [2.0, 2.0])
    assert watch.limit == pytest.approx(2.2)


def test_without_a_rule_nothing_is_kept_and_nothing_is_a_leap():
    watch = LossWatch(None, [1.0, 2.0])
    watch.remember(1.0)
    assert (watch.losses, watch.limit) == ((), math.inf)


def test_a_watch_from_what_was_kept_judges_alike():
    watch = LossWatch(RULE, [1.0, 3.0, 2.0, 2.5, 2.2])
    assert LossWatch(RULE, watch.losses).limit == watch.limit


@pytest.mark.parametrize(
    ("loss", "kind"),
    [(1.9, None), (2.0, None), (2.1, "loss_spike"), (math.nan, "not_finite"), (math.inf, "not_finite")],
)
def test_the_loss_of_an_update_is_judged_by_the_limit(loss, kind):
    trouble = judge_loss(loss, 1.0, limit=2.0)
    assert (trouble.kind if trouble else None) == kind


def test_only_an_update_that_was_left_out_is_asked_about():
    """Which would be an all-reduce, and here is no world."""
    assert find_not_finite(Update([math.nan], StepResult(applied=True, grad_norm=1.0)), 4.0, seeks_scale=False) is None
    assert find_not_finite(Update([], StepResult(applied=False, grad_norm=0.0)), 0.0, seeks_scale=False) is None


def name_rows(trouble: Trouble, micro_losses: list[float]) -> tuple[str, ...]:
    fed = find_fed(trouble, NamesByPlace(), batch_of(4), 3, micro_losses)
    return fed.samples if fed else ()


def test_only_the_micro_batch_that_is_out_of_bounds_is_named():
    spike = Trouble(kind="loss_spike", loss=3.0, grad_norm=1.0, limit=2.0)
    assert name_rows(spike, [2.0, 9.0]) == ("shard0/key2", "shard0/key3")
    assert name_rows(spike, [2.0, 4.0]) == (), "its two samples have a mean of 2, which is the limit"
    broken = Trouble(kind="not_finite", loss=math.nan, grad_norm=math.nan, limit=math.inf)
    assert name_rows(broken, [math.inf, 1.0]) == ("shard0/key0", "shard0/key1")


def test_all_of_the_batch_is_named_when_only_a_gradient_is_not_finite():
    overflow = Trouble(kind="not_finite", loss=1.0, grad_norm=math.inf, limit=math.inf)
    assert len(name_rows(overflow, [1.0, 1.0])) == 4
    assert name_rows(replace(overflow, kind="not_repeated"), [1.0, 1.0]) == (), "nobody is to be suspected"


def test_of_a_fault_that_was_not_repeated_the_rank_is_named_whose_loss_it_was():
    flipped = Trouble(kind="not_repeated", loss=math.nan, grad_norm=math.nan, limit=math.inf)
    assert name_rows(flipped, [1.0, math.nan]) == ("shard0/key2", "shard0/key3")
    assert name_rows(flipped, [1.0, 1.0]) == ()
    assert "not when the same was computed again" in flipped.describe()


def test_news_of_trouble_says_who_fed_what():
    fed = (FedBy(0, ("a/1", "a/2")), FedBy(3, ("b/1",), more=7))
    news = TroubleNews(step=5, generation=1, t=0.0, kind="loss_spike", reason="loss 9", fed=fed)
    assert news.describe() == "loss 9; rank 0 fed a/1, a/2; rank 3 fed b/1 and 7 more"
