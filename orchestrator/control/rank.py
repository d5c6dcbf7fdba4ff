"""One rank: forked by the nursery with the training stack imported, it waits for its job and runs the trainer.

It speaks with its node actor over one connection: says hello, hears its job, tells news, says how it ended. It outlives
nothing: it ends itself when its lease runs out or its node actor dies."""

import faulthandler
import logging
import os
import queue
import select
import signal
import threading
import time
from contextlib import closing
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from orchestrator.control.board import Board
from orchestrator.control.faults import problem_of
from orchestrator.control.jobs import NewsParcel, Problem, RankEnd, RankJob, RankSetup, SnapshotStart
from orchestrator.control.logs import keep_output
from orchestrator.control.vaulted import RankVault
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import TrainingFailed
from orchestrator.core.news import News

if TYPE_CHECKING:
    from orchestrator.train.job import TrainJob

log = logging.getLogger(__name__)
FLUSH_TIMEOUT_S = 120.0
LEASE_LAPSED = 71  # exit status of a rank that ended itself
NODE_ACTOR_DIED = 72


def live_as_rank(connection: Connection, setup: RankSetup) -> None:
    """A rank's whole life. A problem is told, not raised: the controller decides."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # people interrupt the command, which asks the controller
    keep_output(setup.logs, setup.name)
    faulthandler.enable()  # a segfault leaves the stacks in the log
    os.environ.update(setup.env)
    torch.set_num_threads(setup.threads)
    board = Board.open(setup.board)
    threading.Thread(target=_end_without_lease, args=(board,), daemon=True).start()
    threading.Thread(target=_end_with, args=(setup.node_actor_pid,), daemon=True).start()
    connection.send(os.getpid())
    job: RankJob = connection.recv()
    sender = NewsSender(connection)
    sender.say_end(_train(sender, setup, board, job))


def _train(sink: "NewsSender", setup: RankSetup, board: Board, job: RankJob) -> RankEnd | Problem:
    from orchestrator.control.store import open_store
    from orchestrator.train.engine import join_world
    from orchestrator.train.loop import train

    try:
        store = open_store(job.store_host, job.store_port, f"g{job.generation}", job.timeout_s)
        join_world(job.world, setup.device, store, job.timeout_s)
        with closing(_open_vault(setup, job)) as vault:
            outcome = train(_make_train_job(setup, board, job, sink, vault))
    except Exception as error:  # the boundary: whatever went wrong is reported whole
        log.exception("rank %d failed at step %d", job.world.rank, board.step)
        return problem_of(error, rank=job.world.rank, node=setup.host, step=board.step)
    return RankEnd(state=outcome.state, step=outcome.step, reason=outcome.reason)


def _open_vault(setup: RankSetup, job: RankJob) -> RankVault:
    committed = (job.start.generation, job.start.step) if isinstance(job.start, SnapshotStart) else None
    return RankVault(setup.vault, generation=job.generation, buddy=job.buddy, committed=committed)


def _make_train_job(setup: RankSetup, board: Board, job: RankJob, sink: "NewsSender", vault: RankVault) -> "TrainJob":
    from orchestrator.config.check import replace_values
    from orchestrator.config.load import load_config
    from orchestrator.control.snapshots import open_snapshot
    from orchestrator.data.shards.manifest import Manifest
    from orchestrator.tracking.rundir import RunDir
    from orchestrator.tracking.wandb import read_run_id
    from orchestrator.train.job import TrainJob

    run_dir = RunDir(job.run.path)
    config = load_config(run_dir.config).config
    if not job.snapshots:
        config = replace_values(config, {"checkpoint.snapshot_every": None})
    return TrainJob(
        config=config,
        manifest=Manifest.load(run_dir.manifest),
        world=job.world,
        generation=job.generation,
        device=setup.device,
        micro_batch=job.micro_batch,
        accumulation=job.accumulation,
        checkpoints=run_dir.checkpoints,
        start=open_snapshot(job.start, setup.vault.token) if isinstance(job.start, SnapshotStart) else job.start,
        sink=sink,
        helm=board,
        clock=SystemClock(),
        vault=vault,
        wandb_run_id=read_run_id(run_dir.path) if config.tracking.wandb.mode != "off" else None,
        skips_file=run_dir.skips,
        excerpt=run_dir.excerpt(),
    )


class NewsSender:
    """A core.news.Sink: sends news, and at last the end, to the node actor from a thread, in order, one at a time.

    The node actor answers a parcel when the scribe has it on disk, and the end when it has read it: a process that went
    away before would take with it what had not been read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._queue: queue.Queue[News | RankEnd | Problem] = queue.Queue()
        self.told = self.settled = 0
        threading.Thread(target=self._send, daemon=True).start()

    def tell(self, news: News) -> None:
        self.told += 1
        self._queue.put(news)

    def say_end(self, end: RankEnd | Problem) -> None:
        """Return when everything told, and then `end`, is acknowledged."""
        self._queue.put(end)
        self.flush()

    def flush(self) -> None:
        """Return when everything told so far is acknowledged."""
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks:
                if not self._queue.all_tasks_done.wait(deadline - time.monotonic()):
                    raise TrainingFailed(f"no news has been taken for {FLUSH_TIMEOUT_S:g} s", where="scribe")

    def _send(self) -> None:
        while True:
            items = [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get_nowait())
            ends = [item for item in items if isinstance(item, RankEnd | Problem)]
            news = tuple(item for item in items if not isinstance(item, RankEnd | Problem))
            for message in ([NewsParcel(news)] if news else []) + ends:
                self._connection.send(message)
                self._connection.recv()
            self.settled += len(items) - len(ends)
            for _ in items:
                self._queue.task_done()


def _end_without_lease(board: Board) -> None:
    while not board.lease_lapsed():
        time.sleep(0.5)
    os._exit(LEASE_LAPSED)


def _end_with(pid: int) -> None:
    handle = os.pidfd_open(pid)
    select.select([handle], [], [])
    os._exit(NODE_ACTOR_DIED)
