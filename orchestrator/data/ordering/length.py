"""How long a run is: `train.epochs` or `train.tokens` -> `train.steps`, once the data is known.

Comes after prepare and order.py. Deciding again with the same manifest finds the same, so a resume may. A run of epochs
ends with them: its last batch is a phase of its own, of the samples that are left."""

import math
from bisect import bisect_left

from orchestrator.config.check import replace_values
from orchestrator.config.data import Phase
from orchestrator.config.resolve import Decision
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError, NotPrepared
from orchestrator.data.ordering.order import Dataset, Order


def resolve_length(config: RunConfig, dataset: Dataset) -> tuple[RunConfig, list[Decision]]:
    """The config with `train.steps`, and why. A config that states them stays as it is."""
    if config.train.steps is not None:
        return config, []
    order = Order.of(config, dataset)
    if config.train.epochs is not None:
        decisions = _decide_epochs(config, order, dataset, config.train.epochs)
    else:
        assert config.train.tokens is not None, "a config states one of the three"
        decisions = _decide_tokens(config, order, config.train.tokens)
    return replace_values(config, {decision.key: decision.value for decision in decisions}), decisions


def _decide_epochs(config: RunConfig, order: Order, dataset: Dataset, epochs: float) -> list[Decision]:
    source = order.main_source
    name = dataset.source_names[source]
    last = order.position_of(source, order.rows[source].index_after(epochs) - 1)
    if last is None:
        raise ConfigError(
            f"{epochs:g} passes over {name!r} are never over: a phase leaves it out before",
            where="train.epochs",
            remedy="give it a weight in every phase of data.phases, or state train.steps",
        )
    step = order.phases.step_of(last)
    rest, batch = last + 1 - order.first_position(step), order.batch_size(step)
    why = f"{epochs:g} passes over {name} end with sample {last + 1:,} of the run"
    decisions = [_stated(step + 1, why), Decision("train.epochs", None, "said by train.steps", was=epochs)]
    if rest < batch:
        why = f"the last batch has what the epochs leave: {rest} instead of {batch} samples"
        phases = _end_with(config.data.phases, step, rest)
        values, was = ([phase.model_dump(mode="json") for phase in own] for own in (phases, config.data.phases))
        decisions.append(Decision("data.phases", values, why, was=was))
    return decisions


def _decide_tokens(config: RunConfig, order: Order, tokens: int) -> list[Decision]:
    def count_targets(step: int) -> float:
        try:
            return sum(order.rows[source].count_targets(place) for source, place in order.row_places(step).items())
        except NotPrepared:
            return math.inf  # of so many steps nobody can tell yet

    # A step feeds one token or more.
    steps = bisect_left(range(tokens + 1), float(tokens), key=count_targets)
    if math.isinf(count_targets(steps)):
        about = -(-tokens // (config.train.global_batch * config.task.seq_len))
        raise ConfigError(
            "which step feeds the last of them shows when more is prepared, too late for prepare.mode ahead",
            where=f"train.tokens={tokens}",
            remedy=f"state train.steps ({about} feed about as many), or take prepare.mode first",
        )
    why = f"the first number of steps that feed {tokens:,} tokens to predict"
    return [_stated(steps, why), Decision("train.tokens", None, "said by train.steps", was=tokens)]


def _stated(steps: int, why: str) -> Decision:
    return Decision("train.steps", steps, why, was=None)


def _end_with(phases: list[Phase], step: int, rest: int) -> list[Phase]:
    """The phases with a batch of `rest` from `step` on."""
    earlier = [phase for phase in phases if phase.from_step < step]
    own = next((phase for phase in phases if phase.from_step == step), Phase(from_step=step))
    later = [phase for phase in phases if phase.from_step > step]
    return [*earlier, own.model_copy(update={"global_batch": rest}), *later]
