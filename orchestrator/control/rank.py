"""One rank process: forked by the nursery with the training stack imported, it lives through many jobs.

It warms up, takes an assignment, trains, says how that ended, drops engine and world, says that it is free, and takes
the next. It outlives nothing: it ends itself when its lease runs out, its node actor dies, or it cannot get free."""

import faulthandler
import gc
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.control.abort import WayOut
from orchestrator.control.board import Board
from orchestrator.control.faults import problem_of
from orchestrator.control.jobs import Assignment, Free, Problem, RankEnd, RankJob, RankSetup, SnapshotStart
from orchestrator.control.line import Line
from orchestrator.control.logs import keep_output
from orchestrator.control.stacks import describe_stacks
from orchestrator.control.vaulted import RankVault
from orchestrator.core.clock import SystemClock
from orchestrator.core.errors import TrainingFailed, WorldLeft
from orchestrator.tracking.logs import rank_log_name
from orchestrator.tracking.rundir import RunDir

if TYPE_CHECKING:
    from orchestrator.checkpoint.reader import StateReader
    from orchestrator.checkpoint.shelf import Address
    from orchestrator.train.job import TrainJob

log = logging.getLogger(__name__)
LEASE_LAPSED = 71  # exit status of a rank that ended itself
NODE_ACTOR_DIED = 72
STACKS_SIGNAL = signal.SIGUSR2  # all stacks into the file of the setup, whoever holds the interpreter's lock
_SPOILT = "CUDA error"  # nothing can be done with the device in a process that has seen one

Work = Callable[[Board, Assignment, Line], RankEnd]


def live_as_rank(connection: Connection, setup: RankSetup, work: Work | None = None) -> None:
    """A rank's whole life. A problem is told, not raised: the controller decides. `work`: instead of training."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # people interrupt the command, which asks the controller
    keep_output(RunDir(setup.run).logs, rank_log_name(setup.host, os.getpid()))
    faulthandler.enable()  # a segfault leaves the stacks in the log
    show_stacks_when_asked(setup)
    os.environ.update(setup.env)
    torch.set_num_threads(setup.threads)
    board = Board.open(setup.board)
    end_with_its_owners(setup, board)
    way_out = WayOut()
    line = Line(connection, way_out, lambda: os._exit(NODE_ACTOR_DIED), partial(write_stacks, setup))
    line.say(os.getpid())
    if work is None:
        _warm_up(RunDir(setup.run))
    while True:
        line.say(Free())
        _do_job(setup, board, line, way_out, work or train_job)


def _warm_up(run_dir: RunDir) -> None:
    """Import what this run's model needs, some of it the user's code, which a nursery must not touch."""
    from orchestrator.config.load import load_config
    from orchestrator.control import snapshot_reader  # noqa: F401 (for the first job)
    from orchestrator.data.shards.manifest import Manifest
    from orchestrator.train.models.build import build_model
    from orchestrator.train.models.tensors import parameters_on_meta
    from orchestrator.train.start import vocab_size

    try:
        config = load_config(run_dir.config).config
        with parameters_on_meta():
            build_model(config, vocab_size(config, Manifest.load(run_dir.manifest)))
    except Exception:  # the first job comes upon it, too, and tells it
        log.exception("the model cannot be built")


def _do_job(setup: RankSetup, board: Board, line: Line, way_out: WayOut, work: Work) -> None:
    """From the assignment until it can take the next one. What cannot be left behind ends the process, by raising."""
    from orchestrator.train.engine import leave_world

    ended = _end_of(work, setup, board, line.next_assignment(), line, way_out)
    if isinstance(ended, Problem) and not ended.collateral:
        try:
            line.flush()  # the cause is not the last thing heard of a run: what was told before it is
        except (TrainingFailed, WorldLeft) as error:
            log.warning("what was told before the problem is not on disk: %s", error)
    line.say(ended)
    if isinstance(ended, Problem) and _SPOILT in ended.message:
        raise SystemExit(1)
    leave_world()
    if isinstance(ended, Problem):
        gc.collect()  # what its frames held
    way_out.leave()
    board.show(board.step, "")


def _end_of(
    work: Work, setup: RankSetup, board: Board, assignment: Assignment, line: Line, way_out: WayOut
) -> RankEnd | Problem:
    """When it returns, no frame of the work is left, nor what hung on it."""
    rank = assignment.job.world.rank
    try:
        return work(board, assignment, line)
    except (Exception, WorldLeft) as error:  # the boundary: whatever went wrong is reported whole
        log.exception("rank %d of generation %d failed at step %d", rank, assignment.job.generation, board.step)
        problem = problem_of(error, rank=rank, node=setup.host, step=board.step)
    return replace(problem, collateral=True) if way_out.was_taken else problem


def train_job(board: Board, assignment: Assignment, line: Line) -> RankEnd:
    """What a rank is for."""
    from orchestrator.control.store import open_store
    from orchestrator.train.engine import join_world
    from orchestrator.train.loop import train

    job, seat = assignment.job, assignment.seat
    began = time.monotonic()
    board.show(0, "start")
    store = open_store(job.store_host, job.store_port, f"g{job.generation}", job.timeout_s)
    join_world(job.world, seat.device, store, job.timeout_s)
    join_s = time.monotonic() - began
    with ExitStack() as stack:
        outcome = train(_make_train_job(board, assignment, line, join_s, stack))
    line.flush()
    return RankEnd(state=outcome.state, step=outcome.step, reason=outcome.reason, back_to=outcome.back_to)


def _make_train_job(board: Board, assignment: Assignment, line: Line, join_s: float, stack: ExitStack) -> "TrainJob":
    """What has to be closed after it is in the stack."""
    from orchestrator.config.check import replace_values
    from orchestrator.config.load import load_config
    from orchestrator.data.shards.manifest import Manifest
    from orchestrator.tracking.wandb import read_run_id
    from orchestrator.train.job import TrainJob

    job, seat = assignment.job, assignment.seat
    run_dir = RunDir(job.run.path)
    config = load_config(run_dir.config).config
    if not job.snapshots:
        config = replace_values(config, {"checkpoint.snapshot_every": None})
    vault = _open_vault(assignment)
    stack.callback(vault.close)
    return TrainJob(
        config=config,
        manifest=Manifest.load(run_dir.manifest),
        world=job.world,
        generation=job.generation,
        device=seat.device,
        micro_batch=job.micro_batch,
        accumulation=job.accumulation,
        checkpoints=run_dir.checkpoints,
        start=_open_start(job, seat.vault.token, line.way_out, stack),
        sink=line,
        helm=board,
        clock=SystemClock(),
        vault=vault,
        wandb_run_id=read_run_id(run_dir.path) if config.tracking.wandb.mode != "off" else None,
        skips_file=run_dir.skips,
        excerpt=run_dir.excerpt(),
        join_s=join_s,
        leave_at=job.leave_at,
        interruptible=line.way_out.interruptible,
        drill=run_dir.drill(),
    )


def _open_vault(assignment: Assignment) -> RankVault:
    job = assignment.job
    committed = (job.start.generation, job.start.step) if isinstance(job.start, SnapshotStart) else None
    return RankVault(assignment.seat.vault, generation=job.generation, buddy=job.buddy, committed=committed)


def _open_start(job: RankJob, own_token: str, way_out: WayOut, stack: ExitStack) -> "Address | StateReader | None":
    from orchestrator.control.snapshot_reader import open_snapshot

    if not isinstance(job.start, SnapshotStart):
        return job.start
    with way_out.interruptible():
        reader = open_snapshot(job.start, own_token)
    stack.callback(reader.close)
    return reader


def write_stacks(setup: RankSetup) -> None:
    """From a thread, while no other one runs in the interpreter."""
    with Path(setup.stacks).open("a") as file:
        file.write(describe_stacks())


def show_stacks_when_asked(setup: RankSetup) -> None:
    """Written by a signal handler in C, for when a thread never gets the interpreter's lock. It needs none itself: were
    other threads running, it could crash over what they are about to change."""
    faulthandler.register(STACKS_SIGNAL, Path(setup.stacks).open("a"))  # noqa: SIM115 (for good)


def end_with_its_owners(setup: RankSetup, board: Board) -> None:
    threading.Thread(target=_end_without_lease, args=(board,), daemon=True).start()
    threading.Thread(target=_end_with, args=(setup.node_actor_pid,), daemon=True).start()


def _end_without_lease(board: Board) -> None:
    while not board.lease_lapsed():
        time.sleep(0.5)
    os._exit(LEASE_LAPSED)


def _end_with(pid: int) -> None:
    handle = os.pidfd_open(pid)
    select.select([handle], [], [])
    os._exit(NODE_ACTOR_DIED)
