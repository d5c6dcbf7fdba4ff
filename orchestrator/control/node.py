"""The node actor: one a node. It holds the node's bundle, and keeps what a node needs going: ranks in their seats
(seats.py), the vault and a store (home.py), a watch over the ranks (watch.py), and news on their way (courier.py).

The controller beats it; without beats it ends its ranks and itself."""

import logging
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import ray
from ray.exceptions import RayError
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from orchestrator.config.running import ElasticSection
from orchestrator.control.bell import Bell
from orchestrator.control.connect import own_node
from orchestrator.control.courier import Courier
from orchestrator.control.home import StoreHome, VaultHome
from orchestrator.control.jobs import NodeReport, RankJob, RunHandle, Seat
from orchestrator.control.logs import keep_output
from orchestrator.control.machine import Machine
from orchestrator.control.member import Carry, Member
from orchestrator.control.nursery import LastingNursery
from orchestrator.control.seats import Seats
from orchestrator.control.watch import Watch
from orchestrator.core.clock import SystemClock
from orchestrator.core.news import SystemNews
from orchestrator.core.words import Word
from orchestrator.tracking.lease import host_identity
from orchestrator.tracking.rundir import RunDir

log = logging.getLogger(__name__)
LONGEST_BEAT_S = 1.0
GIVE_BACK_TIMEOUT_S = 5.0


class NodeActor:
    """The Ray actor of one node. Several of its methods run at once."""

    def __init__(
        self, run: RunHandle, group: PlacementGroup, elastic: ElasticSection, sample_every_s: float | None
    ) -> None:
        self._run, self._group, self._elastic = run, group, elastic
        self._node_id, self._host = own_node()
        self._logs = RunDir(run.path).logs
        keep_output(self._logs, f"node-{self._host}")
        self._bell, self._courier = Bell(), Courier(run)
        self._seats: Seats | None = None
        self._watch: Watch | None = None
        self._vault: VaultHome | None = None
        self._store: StoreHome | None = None
        self._renewed = time.monotonic()
        threading.Thread(target=self._end_without_lease, daemon=True).start()
        if sample_every_s is not None:
            threading.Thread(target=self._tell_samples, args=(sample_every_s,), daemon=True).start()

    def start_ranks(self, count: int, spares: int, *, device: str, threads: int, env: Mapping[str, str]) -> None:
        """Have warm ranks forked. Each sees all devices of the bundle: masking one by one slows NCCL."""
        visible = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
        nursery = LastingNursery(device, self._logs, env)
        self._vault = vault = VaultHome(self._run, self._host, count, nursery, self._bell.ring)
        self._store = store = StoreHome(self._host, nursery, self._bell.ring)

        def recruit(carry: Carry) -> Member:
            variables = visible | dict(env)
            return Member.make(
                carry, run=self._run.path, host=self._host, device=device, threads=threads, env=variables
            )

        self._seats = seats = Seats(
            [Seat(device if device == "cpu" else f"{device}:{number}", vault.door(number)) for number in range(count)],
            spares,
            recruit=recruit,
            nursery=nursery,
            carry=self._courier.carry,
            bell=self._bell,
            lease_s=self._elastic.lease_s,
        )
        self._watch = watch = Watch(
            seats, self._elastic, self._logs, self._host, self._bell, lambda: (vault.pid, store.pid)
        )
        watch.start()

    def beat(self, word: Word, version: int) -> NodeReport:
        """The controller lives and says `word`; the answer is how the ranks are, as soon as it is another one than that
        of `version`."""
        self._renewed = time.monotonic()
        if self._seats is not None:
            self._seats.renew(word)
        self._bell.wait(version, min(LONGEST_BEAT_S, self._elastic.heartbeat_timeout_s / 4))
        return self._report()

    def _report(self) -> NodeReport:
        version = self._bell.version  # before what it stands for: what changes meanwhile is told again
        return NodeReport(
            node_id=self._node_id,
            host=self._host,
            identity=host_identity(),
            pid=os.getpid(),
            ranks=self._seats.report() if self._seats is not None else (),
            store=self._store.address if self._store is not None else None,
            vault=self._vault.address if self._vault is not None else None,
            generation=self._seats.generation if self._seats is not None else 0,
            version=version,
        )

    def train(self, jobs: Sequence[RankJob], pids: Sequence[int]) -> None:
        """One job a seat, in their order, and who is to sit there. Those of a generation that is over are refused."""
        assert self._seats is not None
        self._seats.train(jobs, pids)

    def abort(self, generation: int) -> None:
        """Whoever is in that generation, or an earlier one, gets out of it."""
        if self._seats is not None:
            self._seats.abort(generation)

    def kill_ranks(self, pids: Collection[int], why: str) -> None:
        if self._watch is not None:
            self._watch.kill(pids, why)

    def end_ranks(self) -> None:
        """Kill every rank: a frozen one answers nothing."""
        if self._seats is not None:
            self._seats.end()

    def _tell_samples(self, every_s: float) -> None:
        """How this node is doing, for the scribe. Nothing waits for it; what cannot be told is dropped."""
        machine = Machine(SystemClock())
        told = None
        while True:
            time.sleep(every_s)
            news = SystemNews(node=self._host, t=round(time.time(), 3), metrics=machine.sample())
            if told is not None and not ray.wait([told], timeout=0)[0]:
                continue  # the scribe is busy, or dead and about to come back
            with suppress(RayError, ValueError):  # ValueError: no such actor
                scribe = ray.get_actor(self._run.actor_name("scribe"), namespace=self._run.namespace)
                told = scribe.write.remote([news])

    def _end_without_lease(self) -> None:
        while time.monotonic() - self._renewed < self._elastic.lease_s:
            time.sleep(0.5)
        log.error("no controller for %g s: ending ranks and giving the node back", self._elastic.lease_s)
        self.end_ranks()
        giving = threading.Thread(target=self._give_back, daemon=True)
        giving.start()
        giving.join(GIVE_BACK_TIMEOUT_S)  # whoever is cut off gets no answer
        os._exit(0)

    def _give_back(self) -> None:
        with suppress(RayError):
            remove_placement_group(self._group)
