"""The real policy in charge of a cluster on paper: what faults would cost at a size that nobody has at hand.

Comes after cluster.py; scale.py makes the tables of docs/scale.md with it."""

import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.control.decisions import Begin, Break, Left
from orchestrator.control.policy import Phase, State, decide
from orchestrator.control.seen import Limits

from .cluster import FaultKind, FaultToCome, SimulatedCluster, Times

LOOK_S = 0.05  # between two looks round while something happens
TICK_S = 1.0  # while the policy waits for nothing but time


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """What a run keeps, and what that takes."""

    name: str
    every_steps: int
    pause_s: float  # training stands still for each
    restore_s: float = 0.0  # beyond Times.start_s, after a fault


@dataclass(slots=True)
class Account:
    """What would be left of the time with one way of saving, in steps on all nodes."""

    saving: Saving
    done: float = 0.0
    kept: float = 0.0  # from when a world was left
    lost: float = 0.0
    debt_s: float = 0.0  # of the world that trains: it is still being restored

    def train(self, seconds: float, share: float, step_s: float) -> None:
        """`share` of the nodes wanted are in the world."""
        restored_s = min(seconds, self.debt_s)
        self.debt_s -= restored_s
        took_s = step_s / share + self.saving.pause_s / self.saving.every_steps
        self.done += (seconds - restored_s) / took_s

    def leave(self) -> None:
        """Ranks save what they have before they leave a world unharmed."""
        self.kept, self.debt_s = self.done, self.saving.pause_s

    def fall_back(self) -> None:
        saved = math.floor(self.done / self.saving.every_steps) * self.saving.every_steps
        kept = max(self.kept, float(saved))
        self.lost, self.done = self.lost + self.done - kept, kept
        self.debt_s = self.saving.restore_s


@dataclass(slots=True)
class Told:
    """What came of it. `pauses_s`: by why, from the last moment that a world trained until the next one did."""

    accounts: list[Account]
    until: float
    trained_s: float = 0.0
    full_s: float = 0.0  # the same, times the share of the nodes wanted
    pauses_s: dict[str, list[float]] = field(default_factory=dict)
    decision_s: list[float] = field(default_factory=list)  # CPU time of each call of the policy

    def goodput(self, account: Account, step_s: float) -> float:
        """Against all nodes wanted, training all the time without ever saving anything."""
        return account.done * step_s / self.until


class Simulation:
    """The policy in charge of a cluster."""

    def __init__(self, cluster: SimulatedCluster, limits: Limits, times: Times, savings: Sequence[Saving]) -> None:
        self._cluster, self._limits, self._times = cluster, limits, times
        self._state = State(phase=Phase.WAITING, since=0.0)
        self._told = Told([Account(saving) for saving in savings], 0.0)
        self._stood_still: float | None = None  # since when no world trains, once one did
        self._why = "start"

    def run(self, faults: Iterable[FaultToCome], until: float) -> Told:
        strikes = iter([*faults, FaultToCome(math.inf, "rank", 0.0)])
        strike, now = next(strikes), 0.0
        while now < until:
            is_busy = self._look_round(now)
            then = now + LOOK_S if is_busy else min(self._cluster.next_change, strike.t, until, now + self._patience())
            self._account(now, then)
            self._cluster.advance(then)
            while strike.t <= then:
                self._cluster.strike(strike)
                strike = next(strikes)
            now = then
        self._told.until = now
        return self._told

    def _look_round(self, now: float) -> bool:
        """Whether the policy has done anything."""
        seen, phase = self._cluster.look(), self._state.phase
        began = time.process_time()
        self._state, decisions = decide(self._state, seen, now, self._limits)
        self._told.decision_s.append(time.process_time() - began)
        for decision in decisions:
            self._cluster.act(decision)
            for account in self._told.accounts:
                if isinstance(decision, Break):
                    account.fall_back()
                elif isinstance(decision, Left):
                    account.leave()
            if isinstance(decision, Begin):
                self._why = decision.why
        return bool(decisions) or self._state.phase is not phase

    def _patience(self) -> float:
        """Until the policy would decide something though nothing happens."""
        state = self._state
        waits = state.phase is Phase.WAITING or state.idle_since is not None or state.signs_since is not None
        return TICK_S if waits else math.inf

    def _account(self, now: float, then: float) -> None:
        share = self._cluster.training / self._limits.max_nodes
        if share:
            self._told.trained_s += then - now
            self._told.full_s += (then - now) * share
            for account in self._told.accounts:
                account.train(then - now, share, self._times.step_s)
            if self._stood_still is not None:
                self._told.pauses_s.setdefault(self._why, []).append(now - self._stood_still)
                self._stood_still = None
        elif self._stood_still is None:
            self._stood_still = now


def draw_faults(rates: Mapping[FaultKind, float], until: float, seed: int) -> Iterator[FaultToCome]:
    """In the order of time. `rates`: how many of each kind until then; they come independently of each other."""
    chance, total = random.Random(seed), sum(rates.values())
    t = chance.expovariate(total / until)
    while t < until:
        [kind] = chance.choices(list(rates), list(rates.values()))
        yield FaultToCome(t, kind, chance.random())
        t += chance.expovariate(total / until)
