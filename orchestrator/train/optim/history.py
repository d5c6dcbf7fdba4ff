"""The validations of a run until now, and what follows from them: a plateau, an early end, which is among the best.

The same on every rank: what is validated is summed over all. Checkpoints carry it (checkpoint/layout.py), so a resume
knows what the run knew, and decides alike. Called by loop.py."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError
from orchestrator.core.measures import LARGER_IS_BETTER, cost_of

Row = dict[str, float]  # `step`, and metrics that are single numbers


class History:
    def __init__(self, config: RunConfig, rows: Iterable[Mapping[str, float]] = ()) -> None:
        self._config, self._best_by = config, config.evaluate.best_by
        self.rows: list[Row] = [dict(row) for row in rows]
        self._conclude()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in a validation after `step` updates."""
        self._check_measured(metrics)
        self.rows.append({"step": step} | {name: metrics[name] for name in LARGER_IS_BETTER if name in metrics})
        self._conclude()

    def at(self, step: int) -> Row | None:
        """The latest validation, if it is the one after so many updates."""
        return self.rows[-1] if self.rows and self.rows[-1]["step"] == step else None

    def is_among_best(self, step: int, count: int) -> bool:
        """Whether what was validated at `step` is one of the best `count` so far: of equal ones the newer."""
        if not count or (latest := self.at(step)) is None:
            return False
        cost = cost_of(latest, self._best_by)
        return isfinite(cost) and sum(cost_of(row, self._best_by) < cost for row in self.rows) < count

    def tell_end(self) -> str:
        """Why the run ends early, in words."""
        best = min(self.rows, key=lambda row: cost_of(row, self._best_by))
        early_stop = self._config.evaluate.early_stop
        assert early_stop is not None
        count = "1 validation" if early_stop.patience == 1 else f"{early_stop.patience} validations"
        by = f" by more than {early_stop.min_delta:g}" if early_stop.min_delta else ""
        return (
            f"stopped early: {count} brought no better {self._best_by}{by}; "
            f"the best is {best.get(self._best_by, inf):.6g}, at step {best['step']}"
        )

    def _conclude(self) -> None:
        """`falls`: how often the learning rate has fallen; `stalled`: whether the run is to end early."""
        schedule, early_stop = self._config.schedule, self._config.evaluate.early_stop
        costs = [cost_of(row, self._best_by) for row in self.rows]
        after_warmup = [cost for row, cost in zip(self.rows, costs, strict=True) if row["step"] > schedule.warmup_steps]
        is_plateau = schedule.name == "plateau"
        self.falls = count_stalls(after_warmup, schedule.patience, schedule.min_delta) if is_plateau else 0
        self.stalled = bool(early_stop and count_stalls(costs, early_stop.patience, early_stop.min_delta))

    def _check_measured(self, metrics: Mapping[str, float]) -> None:
        if self._best_by not in metrics:
            raise ConfigError(
                f"validation gives no {self._best_by}, only {', '.join(metrics)}",
                where="evaluate.best_by",
                remedy="take one of these, or add it to evaluate.metrics",
            )


def count_stalls(costs: Sequence[float], patience: int, min_delta: float) -> int:
    """How often `patience` validations in a row brought none that is better, by more than min_delta, than the best.

    After each time the counting begins anew; the best stays what it was."""
    best, waited, stalls = inf, 0, 0
    for cost in costs:
        if cost < best - min_delta:
            best, waited = cost, 0
        else:
            waited += 1
        if waited == patience:
            waited, stalls = 0, stalls + 1
    return stalls
