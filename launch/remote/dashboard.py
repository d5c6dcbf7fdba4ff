"""A Ray cluster behind the address of its dashboard: the only part of it that must be reached from outside. Through Ray
Jobs it takes jobs, and runs commands whose output comes back (launch/remote/called.py)."""

import asyncio
import importlib.metadata
import logging
import re
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from launch.remote.called import AGAIN, BEAT_S
from launch.remote.code import Shipment, stage
from orchestrator.core.errors import ClusterError, LonghaulError
from orchestrator.core.words import ExitCode

REACH_TIMEOUT_S = 15.0
SILENCE_S = 4 * BEAT_S  # a call that says nothing for so long has lost its connection
_POLL_S = 0.1
_CALL = "longhaul_call"  # metadata of jobs that are only calls
_CALLS_KEPT = 50
_RAYS_OWN = re.compile(r"^(\d{4}-\d\d-\d\d \S+\s(INFO|WARNING) \w+\.py:\d+ -- |Running entrypoint for job )")
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")  # say each package
_REACH = "is it the address of the Ray dashboard, and is its port open to this machine?"
# The Python that runs Ray there: its library is mapped into the job's parent. PATH may name another one, or none.
_PYTHON = (
    r"python=$(sed -n 's|.* \(/.*\)/lib/[^/]*/site-packages/ray/_raylet.so$|\1/bin/python3|p' /proc/$PPID/maps "
    r'| head -n 1); exec "${python:-python3}"'
)


class ConnectionLost(ClusterError):
    """The cluster did not answer any more; it may do so again."""


class CalledAgain(Exception):
    """The call has ended only because it had lasted long enough."""


class Dashboard:
    def __init__(self, address: str) -> None:
        self.address = address if "://" in address else f"http://{address}"
        self._where = f"--address {address}"
        self._client = self._connect()

    # ---- jobs ----

    def jobs(self) -> list[Any]:
        """Ray's own records of every job it remembers, the newest first."""
        with self._reaching():
            found = self._client.list_jobs()
        return sorted(found, key=lambda job: -(job.start_time or 0))

    def start(
        self,
        arguments: Sequence[str],
        shipment: Shipment,
        metadata: Mapping[str, str],
        *,
        module: str = "launch.remote.arrival",
        job_id: str | None = None,
    ) -> str:
        """Have a Longhaul command run in the shipment; returns the job's id."""
        runtime_env = {"working_dir": str(shipment.work), "py_modules": [str(path) for path in shipment.modules]}
        with self._reaching():
            return str(
                self._client.submit_job(
                    entrypoint=f"{_PYTHON} -m {module} {shlex.join(arguments)}",
                    submission_id=job_id,
                    runtime_env=runtime_env,
                    metadata=dict(metadata),
                )
            )

    def info(self, job_id: str) -> Any:
        with self._reaching():
            return self._client.get_job_info(job_id)

    def said(self, job_id: str) -> list[str]:
        """What a job has printed."""
        with self._reaching():
            text = self._client.get_job_logs(job_id)
        return str(text).splitlines()

    # ---- calls ----

    def ask(self, *arguments: str) -> list[str]:
        """Run a Longhaul command there: the JSON lines it has printed. Its failure is raised here."""
        with self._calling(arguments) as job_id:
            info = self._await_end(job_id)
            lines, others = _sort_out(self.said(job_id))
            self._check_call(info, others)
            return lines

    def follow(self, *arguments: str) -> Iterator[str]:
        """Like `ask`, of a command that lasts: its lines as they come, a second or two late. May raise CalledAgain."""
        with self._calling(arguments) as job_id:
            said = []
            for line in self._lines(job_id):
                lines, others = _sort_out([line])
                yield from lines
                said += others
            info = self._await_end(job_id)
            if info.driver_exit_code == AGAIN:
                raise CalledAgain
            self._check_call(info, said)

    def _check_call(self, info: Any, said: Sequence[str]) -> None:
        """A command that does not complain may end as the run did that it has followed."""
        if any(line.startswith(("longhaul: ", "Traceback ")) for line in said):
            raise_failure(info, said, self._where)
        if info.driver_exit_code not in list(ExitCode):
            raise ConnectionLost(f"the call was ended: {info.message}", where=self._where)

    @contextmanager
    def _calling(self, arguments: Sequence[str]) -> Iterator[str]:
        self._sweep()
        with tempfile.TemporaryDirectory() as folder:
            shipment = stage(Path(folder), None, ())
            job_id = self.start(arguments, shipment, {_CALL: arguments[0]}, module="launch.remote.called")
        try:
            yield job_id
        finally:
            with suppress(LonghaulError):
                self._forget(job_id)

    def _lines(self, job_id: str) -> Iterator[str]:
        """Whole lines as they come, until the job has ended."""
        chunks = self._client.tail_job_logs(job_id)
        rest = ""
        with asyncio.Runner() as runner:
            try:
                while (chunk := runner.run(_next_chunk(chunks))) is not None:
                    *lines, rest = (rest + chunk).split("\n")
                    yield from lines
            except (RuntimeError, OSError, TimeoutError) as error:
                raise ConnectionLost(
                    f"the connection broke: {str(error) or 'nothing was heard'}", where=self._where
                ) from error
            finally:
                runner.run(chunks.aclose())

    def _await_end(self, job_id: str) -> Any:
        while not (info := self.info(job_id)).status.is_terminal():
            time.sleep(_POLL_S)
        return info

    def _forget(self, job_id: str) -> None:
        """End a call that nobody listens to; its record goes, too, now or when the next call sweeps."""
        with self._reaching():
            if not self._client.get_job_status(job_id).is_terminal():
                self._client.stop_job(job_id)
            else:
                self._client.delete_job(job_id)

    def _sweep(self) -> None:
        """Remove the records of ended calls but the latest, which somebody may still be reading."""
        ended = [job for job in self.jobs() if _CALL in (job.metadata or {}) and job.status.is_terminal()]
        for job in ended[_CALLS_KEPT:]:
            with suppress(ClusterError), self._reaching():  # another call sweeps, too
                self._client.delete_job(job.submission_id)

    # ---- reaching it ----

    def _connect(self) -> "_Client":
        for talkative in _TALKATIVE:
            logging.getLogger(talkative).setLevel(logging.WARNING)
        with self._reaching():
            client = _Client(self.address)
            ray_there = client.ray_version()
        wanted = _wanted_ray()
        if not wanted.contains(ray_there):
            raise ClusterError(
                f"the cluster runs Ray {ray_there}, and this Longhaul needs {wanted}",
                where=self._where,
                remedy="start the cluster with a Ray in this range",
            )
        return client

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Whatever keeps the cluster from answering becomes one error that says what to look at."""
        try:
            yield
        except AuthenticationError as error:
            remedy = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as on the cluster"
            message = _first_line(error).split(". ")[0]
            raise ClusterError(message, where=self._where, remedy=remedy) from error
        except ValueError as error:
            remedy = "for example http://10.0.0.1:8265"
            raise ClusterError(str(error), where=self._where, remedy=remedy) from error
        except (ConnectionError, requests.RequestException) as error:
            message = f"cannot be reached: {_first_line(error)}"
            raise ConnectionLost(message, where=self._where, remedy=_REACH) from error
        except RuntimeError as error:
            raise ClusterError(_first_line(error), where=self._where, remedy=_REACH) from error


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client waits for ever on a network that is cut; this one does not."""

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=REACH_TIMEOUT_S, **kwargs)

    def ray_version(self) -> str:
        return str(self._do_request("GET", "/api/version").json()["ray_version"])


def _wanted_ray() -> SpecifierSet:
    declared = [Requirement(text) for text in importlib.metadata.requires("longhaul") or []]
    return next(one.specifier for one in declared if one.name == "ray" and one.marker is None)


async def _next_chunk(chunks: AsyncIterator[str]) -> str | None:
    """None at the end."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(chunks)
    except StopAsyncIteration:
        return None


def _sort_out(said: Iterable[str]) -> tuple[list[str], list[str]]:
    """JSON lines, and what else a job has said; Ray's own lines and signs of life are neither."""
    lines, others = [], []
    for line in said:
        if line.startswith("{"):
            lines.append(line)
        elif line and not _RAYS_OWN.match(line):
            others.append(line)
    return lines, others


def raise_failure(info: Any, said: Sequence[str], where: str) -> None:
    """Raise what a job that has ended died of, as the same command would have said it here."""
    if info.driver_exit_code == 0:
        return
    text = "\n".join(said)
    own = text.rpartition("longhaul: ")[2].strip()
    if info.driver_exit_code is None or not own:
        own = f"{info.message or 'the job failed'}\n{text}".strip()
    error = LonghaulError(own, where=where)
    error.exit_code = _known_code(info.driver_exit_code)
    raise error


def _known_code(code: int | None) -> ExitCode:
    return ExitCode(code) if code in list(ExitCode) else ExitCode.FAILED


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
