"""The preparer: prepares the segments that a run still needs while its ranks train. A detached Ray actor, restarted
when it dies, on the controller's lease. Its tasks use the CPUs that the ranks' groups leave free.

What is committed it names in the run's manifest.json, where ranks that wait look. It keeps nothing: started again, it
goes on with what is not committed yet."""

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from orchestrator.config.load import load_config
from orchestrator.config.running import ElasticSection
from orchestrator.control.fleet import run_beside
from orchestrator.control.jobs import PreparerReport, RunHandle
from orchestrator.control.logs import keep_output
from orchestrator.core.errors import DataError, LonghaulError
from orchestrator.core.words import ExitCode
from orchestrator.data.shards.manifest import Manifest
from orchestrator.prepare.run import prepare
from orchestrator.tracking.rundir import RunDir

log = logging.getLogger(__name__)
NAME_EVERY_S = 0.25
LOOK_EVERY_S = 0.5


class PreparerActor:
    """One a run. The work is done in a thread, so that it answers meanwhile."""

    def __init__(self, run: RunHandle, cpus: int, lease_s: float) -> None:
        self._run_dir, self._cpus, self._lease_s = RunDir(run.path), cpus, lease_s
        keep_output(self._run_dir.logs, "preparer")
        self._renewed = time.monotonic()
        self._prepared, self._problem, self._exit_code = False, "", ExitCode.DONE
        self._manifest = Manifest.load(self._run_dir.manifest)
        self._expected = len(self._manifest.segments) + self._manifest.segments_to_come
        threading.Thread(target=self._end_without_lease, daemon=True).start()
        for work in (self._prepare, self._name_segments):
            threading.Thread(target=self._tell_problems, args=(work,), daemon=True).start()

    def look(self) -> PreparerReport:
        """The controller lives and asks how it goes."""
        self._renewed = time.monotonic()
        return PreparerReport(
            pid=os.getpid(),
            segments=len(self._manifest.segments),
            expected=self._expected,
            done=self._prepared and not self._manifest.segments_to_come,
            problem=self._problem,
            exit_code=int(self._exit_code),
        )

    def _tell_problems(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # the boundary: told, so that the controller ends the run
            log.exception("preparing cannot go on")
            own = isinstance(error, LonghaulError)
            self._exit_code = error.exit_code if isinstance(error, LonghaulError) else ExitCode.FAILED
            self._problem = str(error) if own else "".join(traceback.format_exception(error)).rstrip()

    def _prepare(self) -> None:
        config = load_config(self._run_dir.config).config
        listed = len(prepare(config, partial(run_beside, cpus=self._cpus), most=self._expected).segments)
        if listed < self._expected:
            raise DataError(
                f"the sources make {listed} segments; there were shards for {self._expected} when the run began",
                where="data.train",
                remedy="put the shards back that are gone, then resume the run",
            )
        self._prepared = True

    def _name_segments(self) -> None:
        """As they are committed, by whomever."""
        while self._manifest.segments_to_come:
            time.sleep(NAME_EVERY_S)
            self._manifest = Manifest.catch_up(self._run_dir.manifest)

    def _end_without_lease(self) -> None:
        while time.monotonic() - self._renewed < self._lease_s:
            time.sleep(0.5)
        log.error("no controller for %g s", self._lease_s)
        ray.kill(ray.get_runtime_context().current_actor)  # an exit would have it started again


class Preparation:
    """The controller's side of it: starts the preparer or finds it, and is never kept waiting by it."""

    def __init__(self, run: RunHandle, cpus: int, elastic: ElasticSection) -> None:
        self.failed: PreparerReport | None = None
        self._report: PreparerReport | None = None
        self._asked: Any = None
        self._asked_at = 0.0
        self._actor: Any = (
            ray.remote(PreparerActor)
            .options(
                name=run.actor_name("preparer"),
                namespace=run.namespace,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=elastic.restart_budget,
                max_task_retries=-1,
            )
            .remote(run, cpus, elastic.lease_s)
        )

    def look(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Renew its lease; what is new, for the journal."""
        if self._actor is None or self.failed is not None:
            return
        report = self._hear()
        if report is None:
            return
        before, self._report = self._report, report
        if report.problem:
            self.failed = report
            yield "preparing_failed", {"reason": report.problem}
        elif before is None or before.pid != report.pid:
            yield "preparing", {"pid": report.pid, "segments": report.segments, "expected": report.expected}
        if report.done:
            yield "prepared", {"segments": report.expected}
            self.end()

    def end(self) -> None:
        """What it has committed stays."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _hear(self) -> PreparerReport | None:
        """The answer to the last question, once; then the next is asked."""
        now = time.monotonic()
        if self._asked is None:
            if now - self._asked_at >= LOOK_EVERY_S:
                self._asked, self._asked_at = self._actor.look.remote(), now
            return None
        if not ray.wait([self._asked], timeout=0)[0]:
            return None
        asked, self._asked = self._asked, None
        try:
            return ray.get(asked)  # type: ignore[no-any-return]
        except ActorUnavailableError:
            return None  # cannot be reached now: it is asked again
        except RayActorError as error:
            known = self._report
            return PreparerReport(
                pid=known.pid if known else 0,
                segments=known.segments if known else 0,
                expected=known.expected if known else 0,
                problem=f"the preparer died too often: {str(error).splitlines()[0]}",
                exit_code=int(ExitCode.FAILED),
            )
