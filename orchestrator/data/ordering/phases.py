"""The arithmetic of steps: which batch size, sequence length and mixture hold at a step, and where its positions begin.

Comes before order.py, which turns positions into samples."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config.data import Phase
from orchestrator.core.errors import ConfigError
from orchestrator.data.ordering.mixing import quotas_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """What holds from step `from_step` on; that step begins at `first_position`."""

    from_step: int
    first_position: int
    global_batch: int
    seq_len: int | None
    quotas: tuple[int, ...]


class PhaseTable:
    """The phases of a run in order. What a phase does not state stays as it was."""

    def __init__(
        self,
        phases: Sequence[Phase],
        source_names: Sequence[str],
        weights: Sequence[float],
        global_batch: int,
        seq_len: int | None,
    ) -> None:
        quotas = quotas_of(weights)
        base = Arithmetic(from_step=0, first_position=0, global_batch=global_batch, seq_len=seq_len, quotas=quotas)
        self.rows = [base]
        for number, phase in enumerate(phases):
            if number and phase.from_step <= phases[number - 1].from_step:
                raise ConfigError(
                    f"from_step {phase.from_step} does not come after {phases[number - 1].from_step}",
                    where=f"data.phases[{number}]",
                    remedy="list the phases in the order of their steps",
                )
            if phase.weights is not None:
                quotas = quotas_of(_weights_by_source(phase.weights, source_names, f"data.phases[{number}].weights"))
            self._add(phase, quotas)
        self._from_steps = [row.from_step for row in self.rows]

    def at(self, step: int) -> int:
        """The number of the phase that holds at a step."""
        if step < 0:
            raise ValueError(f"steps are counted from 0, not {step}")
        return bisect_right(self._from_steps, step) - 1

    def first_position(self, step: int) -> int:
        row = self.rows[self.at(step)]
        return row.first_position + (step - row.from_step) * row.global_batch

    def block_of(self, step: int, num_steps: int) -> range:
        """The steps of the same phase that a step is laid out with: its phase cut in blocks of `num_steps`."""
        number = self.at(step)
        first = step - (step - self.rows[number].from_step) % num_steps
        return range(first, min([first + num_steps, *self._from_steps[number + 1 : number + 2]]))

    def step_of(self, position: int) -> int:
        """The step that a position belongs to."""
        row = self.rows[bisect_right(self.rows, position, key=lambda row: row.first_position) - 1]
        return row.from_step + (position - row.first_position) // row.global_batch

    def _add(self, phase: Phase, quotas: tuple[int, ...]) -> None:
        before = self.rows[-1]
        row = Arithmetic(
            from_step=phase.from_step,
            first_position=before.first_position + (phase.from_step - before.from_step) * before.global_batch,
            global_batch=phase.global_batch or before.global_batch,
            seq_len=phase.seq_len or before.seq_len,
            quotas=quotas,
        )
        if phase.from_step == before.from_step:  # a phase from step 0 states the base anew
            self.rows.pop()
        self.rows.append(row)


def _weights_by_source(weights: dict[str, float], source_names: Sequence[str], where: str) -> list[float]:
    unknown, missing = sorted(set(weights) - set(source_names)), sorted(set(source_names) - set(weights))
    if unknown or missing:
        raise ConfigError(
            f"the sources are {list(source_names)}; unknown here: {unknown}, missing here: {missing}",
            where=where,
            remedy="give every source a weight; 0 leaves one out",
        )
    return [weights[name] for name in source_names]
