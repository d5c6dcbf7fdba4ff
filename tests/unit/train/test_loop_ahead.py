"""The whole trainer over data that is still being prepared. One gang of two processes goes through all cases."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.run import RunConfig
from orchestrator.core.news import EvaluationNews
from orchestrator.core.words import RunState, Word
from orchestrator.data.ordering.order import Order
from orchestrator.train.engine import warm
from tests.fakes.gang import run_gang
from tests.fakes.small_runs import ScriptedHelm, SmallManifest, small_config, train_small

STEPS = 14


class Growing(SmallManifest):
    """Shows its second segment when it has been looked for so many times."""

    whole: SmallManifest
    looks = 0
    shown_after = 3

    @classmethod
    def begun(cls) -> "Growing":
        whole = SmallManifest.make()
        growing = cls(whole.shards, whole.segments[:1], whole.source_names, segments_to_come=1)
        growing.whole = whole
        return growing

    def grow(self) -> bool:
        self.looks += 1
        if self.looks < self.shown_after or not self.segments_to_come:
            return False
        self.segments, self.segments_to_come = self.whole.segments, 0
        return True

    def first(self, count: int) -> SmallManifest:
        return SmallManifest(self.shards, self.segments[:count], self.source_names)


class Whole(SmallManifest):
    def first(self, count: int) -> SmallManifest:
        return SmallManifest(self.shards, self.segments[:count], self.source_names)


class ImpatientHelm(ScriptedHelm):
    """Says its word when nothing is left but to wait for a segment, which has been looked for twice."""

    def __init__(self, manifest: Growing, word: Word) -> None:
        super().__init__(word=word)
        self._manifest = manifest

    def word(self) -> Word:
        waits = self.shown[-1] == (waits_at() - 1, "data") and self._manifest.looks >= 2
        return self._word if waits else Word.GO_ON


def config_of(mode: str, **sections: Any) -> RunConfig:
    train = {"steps": STEPS, "global_batch": 10, "precision": "fp32", "clip_norm": 1.0}
    prepare = {"mode": mode, "tokens": {"train_bpe": 300}}
    return small_config(train=train, prepare=prepare, evaluate={"every_steps": 5}, **sections)


def run_all(rank: int, size: int, store: Any, folder: Path) -> dict[str, Any]:
    warm("cpu", threads=1)
    whole = Whole.make()
    results: dict[str, Any] = {}
    for name, config, manifest in (
        ("first", config_of("first"), whole),
        ("prepared before", config_of("ahead"), whole),
        ("ahead", config_of("ahead"), Growing.begun()),
    ):
        outcome, sink = train_small(rank, size, store, config, folder / name.replace(" ", "-"), manifest=manifest)
        results[name] = {"outcome": outcome, "rows": sink.rows(), "evaluations": sink.of(EvaluationNews)}
    for name, word in (("stopped", Word.STOP), ("left", Word.LEAVE)):
        growing = Growing.begun()
        growing.shown_after = 10**6
        helm = ImpatientHelm(growing, word)
        stopped, sink = train_small(rank, size, store, config_of("ahead"), folder / name, manifest=growing, helm=helm)
        results[name] = {"outcome": stopped, "rows": sink.rows()}
    again, sink = train_small(
        rank,
        size,
        store,
        config_of("ahead"),
        folder / "stopped",
        manifest=whole,
        start=results["stopped"]["outcome"].checkpoint,
        generation=2,
    )
    results["resumed"] = {"outcome": again, "rows": sink.rows()}
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_gang(2, run_all, tmp_path_factory.mktemp("runs"))


def without_epochs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "epoch"} for row in rows]


def waits_at() -> int:
    """The first step that needs the second segment."""
    order = Order.of(config_of("first"), SmallManifest.make())
    return next(step for step in range(STEPS) if order.slots(step).unit.max() > 0)


def test_training_while_data_is_prepared_feeds_and_learns_the_same(ranks: list[dict[str, Any]]) -> None:
    first, ahead = ranks[0]["first"], ranks[0]["ahead"]
    assert 0 < waits_at() < STEPS - 1
    assert ahead["outcome"].state is RunState.DONE
    assert len(ahead["rows"]) == STEPS
    assert without_epochs(ahead["rows"]) == without_epochs(first["rows"])


def test_epochs_are_told_as_soon_as_all_of_the_first_is_known(ranks: list[dict[str, Any]]) -> None:
    told = [row.get("epoch") for row in ranks[0]["ahead"]["rows"]]
    known = next(step for step, epoch in enumerate(told) if epoch is not None)
    assert 0 < known <= waits_at()
    assert told[known:] == [row["epoch"] for row in ranks[0]["first"]["rows"]][known:]


def test_validation_does_not_depend_on_how_much_is_prepared(ranks: list[dict[str, Any]]) -> None:
    def metrics(name: str) -> list[dict[str, Any]]:
        return [news.metrics for news in ranks[0][name]["evaluations"]]

    tokens = SmallManifest.make().totals("validation")
    assert metrics("ahead") == metrics("prepared before")
    assert metrics("ahead")[0]["tokens"] == tokens[:4].sum() - 1
    assert metrics("first")[0]["tokens"] == tokens.sum() - 1


def test_who_hears_to_stop_or_leave_while_waiting_does_so_at_the_last_prepared_step(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        outcome = rank["stopped"]["outcome"]
        assert (outcome.state, outcome.step, outcome.reason) == (RunState.STOPPED, waits_at(), "")
        left = rank["left"]["outcome"]
        assert (left.state, left.step) == (RunState.RUNNING, waits_at())
    rows = ranks[0]["stopped"]["rows"] + ranks[0]["resumed"]["rows"]
    assert without_epochs(rows) == without_epochs(ranks[0]["first"]["rows"])
