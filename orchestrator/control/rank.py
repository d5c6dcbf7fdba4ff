"""One rank: an actor that imports the training stack, waits for its job, and runs the trainer.

It outlives nothing: it ends itself when its lease runs out or its node actor dies. Started by control/node.py."""

import logging
import os
import queue
import select
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.control.board import Board
from orchestrator.control.faults import problem_of
from orchestrator.control.jobs import Problem, RankEnd, RankJob, RankSetup, RunHandle
from orchestrator.control.logs import keep_output
from orchestrator.control.store import open_store
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import CheckpointNews, News

log = logging.getLogger(__name__)
FLUSH_TIMEOUT_S = 120.0
LEASE_LAPSED = 71  # exit status of a rank that ended itself
NODE_ACTOR_DIED = 72


class Rank:
    """The Ray actor of one rank."""

    def __init__(self, setup: RankSetup) -> None:
        keep_output(setup.logs, setup.name)
        self._host, self._device = setup.host, setup.device
        self._board = Board.open(setup.board)
        threading.Thread(target=_end_without_lease, args=(self._board,), daemon=True).start()
        threading.Thread(target=_end_with, args=(setup.node_actor_pid,), daemon=True).start()
        os.environ.update(setup.env)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from orchestrator.train.engine import warm

        began = time.monotonic()
        warm(setup.device, setup.threads)
        log.info("warm after %.2f s of imports", time.monotonic() - began)

    def hello(self) -> int:
        """Answers once the imports are done."""
        return os.getpid()

    def train(self, job: RankJob) -> RankEnd | Problem:
        """Join the world and train until done or stopped. A problem is returned, not raised: the controller decides."""
        sink = NewsCarrier(job.run)
        try:
            end = self._train(job, sink)
            sink.flush()
        except Exception as error:
            log.exception("rank %d failed at step %d", job.world.rank, self._board.step)
            return problem_of(error, rank=job.world.rank, node=self._host, step=self._board.step)
        return end

    def _train(self, job: RankJob, sink: "NewsCarrier") -> RankEnd:
        from orchestrator.config.load import load_config
        from orchestrator.data.manifest import Manifest
        from orchestrator.data.skips import Skips
        from orchestrator.tracking.rundir import RunDir
        from orchestrator.tracking.wandb import read_run_id
        from orchestrator.train.engine import join_world
        from orchestrator.train.loop import TrainJob, train

        run_dir = RunDir(job.run.path)
        config = load_config(run_dir.config).config
        tracked = config.tracking.wandb.mode != "off"
        store = open_store(job.store_host, job.store_port, f"g{job.generation}", job.timeout_s)
        join_world(job.world, self._device, store, job.timeout_s)
        outcome = train(
            TrainJob(
                config=config,
                manifest=Manifest.load(run_dir.manifest),
                world=job.world,
                generation=job.generation,
                device=self._device,
                micro_batch=job.micro_batch,
                accumulation=job.accumulation,
                checkpoints=run_dir.checkpoints,
                start=job.start,
                sink=sink,
                helm=self._board,
                clock=SystemClock(),
                wandb_run_id=read_run_id(job.run.path) if tracked else None,
                skips=Skips.load(run_dir.skips) if run_dir.skips.exists() else Skips(),
            )
        )
        return RankEnd(state=outcome.state, step=outcome.step)


class NewsCarrier:
    """A core.news.Sink: carries news to the scribe from a thread, in order, until it is acknowledged.

    Checkpoint news goes to the controller, which alone writes the journal."""

    def __init__(self, run: RunHandle) -> None:
        self._run = run
        self._queue: queue.Queue[News] = queue.Queue()
        threading.Thread(target=self._carry, daemon=True).start()

    def tell(self, news: News) -> None:
        self._queue.put(news)

    def flush(self) -> None:
        """Return when everything told so far is acknowledged."""
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks:
                if not self._queue.all_tasks_done.wait(deadline - time.monotonic()):
                    raise TrainingFailed(
                        f"the scribe took no news for {FLUSH_TIMEOUT_S:g} s", where=str(self._run.path)
                    )

    def _carry(self) -> None:
        while True:
            news = [self._queue.get()]
            while not self._queue.empty():
                news.append(self._queue.get_nowait())
            self._deliver("scribe", "write", [n for n in news if not isinstance(n, CheckpointNews)])
            self._deliver("controller", "note", [n for n in news if isinstance(n, CheckpointNews)])
            for _ in news:
                self._queue.task_done()

    def _deliver(self, actor: str, method: str, news: list[Any]) -> None:
        """Repeat until the receiver has said yes: it may be dying and coming back, and it knows doubles."""
        while news:
            try:
                handle = ray.get_actor(self._run.actor_name(actor), namespace=self._run.namespace)
                ray.get(getattr(handle, method).remote(news), timeout=30.0)
            except (
                RayError,
                ValueError,
            ) as error:  # dead, slow, or its disk is full; ValueError: no such actor
                log.warning("the %s does not answer, trying again: %s", actor, error)
                time.sleep(0.2)
            else:
                return


def _end_without_lease(board: Board) -> None:
    while not board.lease_lapsed():
        time.sleep(0.5)
    os._exit(LEASE_LAPSED)


def _end_with(pid: int) -> None:
    handle = os.pidfd_open(pid)
    select.select([handle], [], [])
    os._exit(NODE_ACTOR_DIED)
