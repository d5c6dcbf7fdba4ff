"""What the controller shows people of itself: now.json, about once a second."""

import logging
from collections.abc import Mapping, Sequence

from orchestrator.control.jobs import RankReport
from orchestrator.control.policy import Phase, State
from orchestrator.control.seen import Limits, NodeSeen
from orchestrator.core.clock import Clock
from orchestrator.tracking.now import NodeOffer, Now, RankNow, Waiting, write_now
from orchestrator.tracking.rundir import RunDir

log = logging.getLogger(__name__)
SHOW_EVERY_S = 0.9  # a calm controller looks round once a second


class Showing:
    def __init__(self, run_dir: RunDir, clock: Clock, bundle: Mapping[str, float], limits: Limits) -> None:
        self._run_dir, self._clock, self._bundle, self._limits = run_dir, clock, bundle, limits
        self._shown = 0.0
        self.why_waiting = ""

    def show(
        self, generation: int, state: State, nodes: Sequence[NodeSeen], held: int, offers: Sequence[NodeOffer]
    ) -> None:
        """`held`: nodes that wait for others, before anything is started on them."""
        if self._clock.monotonic() - self._shown < SHOW_EVERY_S:
            return
        self._shown = self._clock.monotonic()
        now = Now(
            t=self._clock.now(),
            generation=generation,
            phase=state.phase.name.lower(),
            waiting=self._find_what_is_missing(state, nodes, held, offers),
            ranks=[_rank_now(node.host, rank) for node in nodes for rank in node.ranks],
        )
        try:
            write_now(self._run_dir.path, now)
        except OSError as error:  # a full disk must not end a run for the sake of a picture of it
            log.warning("now.json cannot be written: %s", error)

    def _find_what_is_missing(
        self, state: State, nodes: Sequence[NodeSeen], held: int, offers: Sequence[NodeOffer]
    ) -> Waiting | None:
        there = held + sum(not node.lost for node in nodes)
        if state.phase is not Phase.WAITING or there >= self._limits.min_nodes:
            return None
        waiting = Waiting(
            since=self._clock.now() - (self._clock.monotonic() - state.since),
            asked=dict(self._bundle),
            needed=self._limits.min_nodes,
            wanted=self._limits.max_nodes,
            ready=there,
            nodes=list(offers),
        )
        self.why_waiting = waiting.describe()
        return waiting


def _rank_now(host: str, report: RankReport) -> RankNow:
    return RankNow(
        rank=report.rank,
        host=host,
        local_rank=report.local_rank,
        pid=report.pid,
        state=report.state,
        step=report.step,
        phase=report.phase,
        busy_s=round(report.busy_s, 6),
    )
