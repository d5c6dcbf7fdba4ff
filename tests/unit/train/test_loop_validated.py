"""What training does with its validations: stop early, keep the best, lower the rate; and a resume changes none of it.

One gang of two processes goes through all cases once."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.keep import rank_best
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.core.news import EvaluationNews
from orchestrator.core.words import RunState
from orchestrator.train.engine import warm
from tests.fakes.gang import run_gang
from tests.fakes.small_runs import GPT2, ScriptedHelm, small_config, train_small

DROPOUT = GPT2 | {"attn_pdrop": 0.2, "resid_pdrop": 0.2, "embd_pdrop": 0.2}
NEVER_BETTER = 100.0  # a min_delta that no loss falls by
TWELVE = {"steps": 12, "global_batch": 10, "precision": "fp32", "clip_norm": 1.0}


def run_all(rank: int, size: int, store: Any, folder: Path) -> dict[str, Any]:
    warm("cpu", threads=1)
    return {
        case.__name__: case(rank, store, folder / case.__name__) for case in (follow_plateau, stop_early, keep_best)
    }


def follow_plateau(rank: int, store: Any, folder: Path) -> Any:
    """With dropout and accumulation, unbroken, and gone on from its checkpoint at step 3."""
    config = small_config(
        DROPOUT,
        stage=2,
        optim={"lr": 0.01, "l1": 1e-4, "rates": {"*.wte.weight": 0.5}},
        schedule={"name": "plateau", "warmup_steps": 1, "factor": 0.5, "patience": 1, "min_delta": NEVER_BETTER},
        evaluate={"every_steps": 1},
        checkpoint={"every_steps": 3},
    )
    _, whole = train_small(rank, 2, store, config, folder / "plateau", micro_batch=2)
    start = folder / "plateau" / "step-00000003-g0001"
    _, again = train_small(rank, 2, store, config, folder / "plateau again", generation=2, start=start, micro_batch=2)
    return whole.rows(), again.rows()


def stop_early(rank: int, store: Any, folder: Path) -> Any:
    """A run that never gets better; gone on from before its end, and from its end."""
    config = small_config(
        train=TWELVE,
        evaluate={"every_steps": 2, "early_stop": {"patience": 2, "min_delta": NEVER_BETTER}},
        checkpoint={"every_steps": 4},
    )
    whole = train_small(rank, 2, store, config, folder / "early")
    starts = [folder / "early" / f"step-{step:08d}-g0001" for step in (4, 6)]
    again = [train_small(rank, 2, store, config, folder / start.name, generation=2, start=start) for start in starts]
    return [(outcome, sink.rows(), sink.of(EvaluationNews)) for outcome, sink in (whole, *again)]


def keep_best(rank: int, store: Any, folder: Path) -> Any:
    """Losses that fall and rise again, in one go and with a stop in between; checkpoints only of what is good."""
    config = small_config(
        train=TWELVE | {"clip_norm": None},
        optim={"name": "lion", "lr": 0.03},
        evaluate={"every_steps": 1, "early_stop": {"patience": 3}},
        checkpoint={"keep": {"last": 1, "best": 1}},
    )
    found = {}
    for name, stops in (("whole", [None]), ("broken", [4, None])):
        start, losses = None, []
        for generation, stop_at in enumerate(stops, start=1):
            outcome, sink = train_small(
                rank,
                2,
                store,
                config,
                folder / name,
                generation=generation,
                start=start,
                helm=ScriptedHelm(stop_at=stop_at),
            )
            start = outcome.checkpoint
            losses += [news.metrics["loss"] for news in sink.of(EvaluationNews)]
        found[name] = (outcome.step, losses, list_checkpoints(folder / name))
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_gang(2, run_all, tmp_path_factory.mktemp("runs"))


def test_the_rate_follows_the_validations_before_it(ranks: list[dict[str, Any]]) -> None:
    whole, _ = ranks[0]["follow_plateau"]
    # warm-up, the peak; the validation at step 2 is the first past warm-up, those from step 3 on are no better
    assert [row["lr"] for row in whole] == [0.005, 0.01, 0.01, 0.005, 0.0025, 0.00125]


def test_a_resume_is_bit_equal_with_dropout_accumulation_and_a_rate_on_plateau(ranks: list[dict[str, Any]]) -> None:
    whole, again = ranks[0]["follow_plateau"]
    assert again == whole[3:]


def test_a_run_that_gets_no_better_is_done_early_and_says_why(ranks: list[dict[str, Any]]) -> None:
    for seen in ranks:
        outcome, _, _ = seen["stop_early"][0]
        assert (outcome.state, outcome.step) == (RunState.DONE, 6)
        assert outcome.checkpoint.name == "step-00000006-g0001"
        assert outcome.reason.startswith(
            "stopped early: 2 validations brought no better loss by more than 100; the best"
        )


def test_a_resume_ends_early_at_the_same_step(ranks: list[dict[str, Any]]) -> None:
    (whole, rows, _), (later, later_rows, told), (at_end, no_rows, untold) = ranks[0]["stop_early"]
    assert (later.state, later.step, later.reason) == (whole.state, whole.step, whole.reason)
    assert later_rows == rows[4:]
    assert [news.step for news in told] == [6]
    assert (at_end.state, at_end.step, at_end.reason) == (whole.state, whole.step, whole.reason)
    assert not no_rows
    assert not untold


def test_a_checkpoint_knows_all_validations_until_its_step(ranks: list[dict[str, Any]]) -> None:
    outcome, _, told = ranks[0]["stop_early"][0]
    known = open_checkpoint(outcome.checkpoint).facts.validations
    assert [(row["step"], row["loss"]) for row in known] == [(news.step, news.metrics["loss"]) for news in told]
    assert [row["step"] for row in known] == [2, 4, 6]


def test_the_best_checkpoint_stays_whether_or_not_the_run_was_broken(ranks: list[dict[str, Any]]) -> None:
    (step, losses, kept), (broken_step, broken_losses, broken_kept) = ranks[0]["keep_best"].values()
    assert (broken_step, broken_losses) == (step, losses)
    best = losses.index(min(losses)) + 1
    assert step == best + 3 < 12, "losses were to fall and rise again"
    assert [one.step for one in kept] == [one.step for one in broken_kept] == [best, step]
    assert rank_best(kept, "loss")[0].step == rank_best(broken_kept, "loss")[0].step == best
