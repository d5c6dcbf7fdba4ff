"""A node whose ranks really train, without Ray: nursery, vault, store and seats as a node actor has them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from orchestrator.config.load import load_config
from orchestrator.config.resolve import Facts, WorldPlan, resolve_run, resolve_world
from orchestrator.config.running import ElasticSection
from orchestrator.config.show import dump_yaml
from orchestrator.control.bell import Bell
from orchestrator.control.home import StoreHome, VaultHome
from orchestrator.control.jobs import RankJob, RankReport, RankState, RunHandle, Seat, SnapshotStart, VaultAddress
from orchestrator.control.member import Carry, Member
from orchestrator.control.membership import choose_seats
from orchestrator.control.nursery import LastingNursery
from orchestrator.control.seats import Seats
from orchestrator.control.snapshots import Inventory
from orchestrator.control.watch import Watch
from orchestrator.core.news import News, StepNews
from orchestrator.core.words import Word, World
from orchestrator.prepare.run import prepare
from orchestrator.tracking.rundir import RunDir

HOST = "127.0.0.1"
TIMEOUT_S = 60.0
NURSERY = "orchestrator.control.nursery"  # in its command line


def write_run(folder: Path, config: Mapping[str, Any], ranks: int) -> tuple[RunDir, WorldPlan]:
    """Prepared data, and a run directory with what ranks read."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    loaded = load_config(path).config
    manifest = prepare(loaded)
    facts = Facts(device="cpu", cpus_per_node=ranks, remote=False, sample_bytes=0, wandb_key=False)
    resolved, _ = resolve_run(loaded, facts)
    run_dir = RunDir(Path(loaded.root) / loaded.name)
    run_dir.path.mkdir(parents=True)
    run_dir.config.write_text(dump_yaml(resolved))
    manifest.write(run_dir.manifest)
    return run_dir, resolve_world(resolved, facts, ranks)


class TrainingNode:
    def __init__(self, run_dir: RunDir, plan: WorldPlan, spares: int) -> None:
        self.losses: dict[int, set[float]] = {}  # by step, of all times that it was trained
        self.word = Word.GO_ON
        self.bell = Bell()
        self._plan, self._run = plan, RunHandle(path=run_dir.path, key="node")
        self.nursery = LastingNursery("cpu", run_dir.logs, {})
        self.vault = VaultHome(self._run, HOST, plan.world_size, self.nursery, self.bell.ring)
        self.store = StoreHome(HOST, self.nursery, self.bell.ring)
        self.seats = Seats(
            [Seat("cpu", self.vault.door(number)) for number in range(plan.world_size)], spares,
            recruit=self._recruit, nursery=self.nursery, carry=self._carry, bell=self.bell, lease_s=TIMEOUT_S,
        )  # fmt: skip
        self.watch = Watch(self.seats, ElasticSection(), run_dir.logs, HOST, self.bell)  # kills, and looks for nobody
        self.wait_for(lambda reports: sum(one.is_free for one in reports) == plan.world_size + spares)
        self.generation = 0
        self.wait_until_reachable()

    def begin_next(self, buddy: VaultAddress | None = None) -> SnapshotStart | None:
        """The next generation, from the newest snapshot there is."""
        self.generation += 1
        assert self.vault.address is not None
        assert self.store.address is not None
        start, size = Inventory.take([self.vault.address]).choose(), self._plan.world_size
        host, port = self.store.address
        jobs = [
            RankJob(
                run=self._run, generation=self.generation, world=World.flat(rank, size, rank, size),
                micro_batch=self._plan.micro_batch, accumulation=self._plan.accumulation, store_host=host,
                store_port=port, timeout_s=TIMEOUT_S, start=start, snapshots=True, buddy=buddy,
            )
            for rank in range(size)
        ]  # fmt: skip
        self.seats.train(jobs, [one.pid for one in choose_seats(self.seats.report(), len(jobs))])
        return start

    def wait_for(self, is_so: Callable[[tuple[RankReport, ...]], object]) -> tuple[RankReport, ...]:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            version = self.bell.version
            reports = self.seats.report()
            if is_so(reports):
                return reports
            assert time.monotonic() < deadline, f"it has not come about: {reports}"
            self.seats.renew(self.word)
            self.bell.wait(version, 0.005)

    def wait_until_reachable(self) -> None:
        self.wait_for(lambda _: self.vault.address is not None and self.store.address is not None)

    def wait_until_trained(self) -> tuple[RankReport, ...]:
        """All ranks of the newest world are past its first step."""
        return self.wait_for(
            lambda reports: self._seated(reports) and all(one.trained for one in self._seated(reports))
        )

    def wait_until_free(self) -> tuple[RankReport, ...]:
        """Those of the newest world that live, and enough for the next one."""

        def is_free(reports: tuple[RankReport, ...]) -> bool:
            living = [one for one in reports if one.state not in (RankState.DIED, RankState.WARMING)]
            return all(one.is_free for one in living) and len(living) >= self._plan.world_size

        return self.wait_for(is_free)

    def helpers(self) -> list[psutil.Process]:
        """Nursery, vault and store."""
        ranks = {one.pid for one in self.seats.report()}
        [nursery] = [one for one in psutil.Process().children() if NURSERY in one.cmdline()]
        return [nursery, *(one for one in nursery.children() if one.pid not in ranks)]

    def end(self) -> None:
        self.seats.end()
        self.wait_for(lambda reports: all(one.state is RankState.DIED for one in reports))
        self.nursery.end()

    def _seated(self, reports: Sequence[RankReport]) -> list[RankReport]:
        return [one for one in reports if one.local_rank is not None]

    def _recruit(self, carry: Carry) -> Member:
        return Member.make(carry, run=self._run.path, host=HOST, device="cpu", threads=1, env={})

    def _carry(self, news: Sequence[News], delivered: Callable[[], None]) -> None:
        for one in news:
            if isinstance(one, StepNews):
                self.losses.setdefault(one.step, set()).add(float(one.metrics["loss"]))
        delivered()


@contextmanager
def training_node(
    folder: Path, config: Mapping[str, Any], *, ranks: int = 2, spares: int = 1
) -> Iterator[TrainingNode]:
    run_dir, plan = write_run(folder, config, ranks)
    node = TrainingNode(run_dir, plan, spares)
    try:
        yield node
    finally:
        node.end()
