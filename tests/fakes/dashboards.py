"""A cluster behind a dashboard, played from a script: what its jobs are, and what its commands answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from launch.remote.dashboard import CalledAgain
from orchestrator.core.errors import LonghaulError


@dataclass(frozen=True)
class Status:
    terminal: bool

    def is_terminal(self) -> bool:
        return self.terminal


@dataclass(frozen=True)
class Job:
    """As Ray's records of jobs, the fields that are looked at."""

    path: str
    alive: bool = True
    start_time: int = 1_000
    submission_id: str = "job-1"
    message: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        return {"longhaul_run": self.path} if self.path else {}

    @property
    def status(self) -> Status:
        return Status(not self.alive)


@dataclass
class FakeDashboard:
    """`answers`: for each call in turn its lines, an error, or lines that end in an error."""

    known: Sequence[Job] = ()
    answers: list[Any] = field(default_factory=list)
    output: Sequence[str] = ()
    asked: list[tuple[str, ...]] = field(default_factory=list)
    address: str = "http://head:8265"

    def jobs(self) -> Sequence[Job]:
        return self.known

    def said(self, job_id: str) -> Sequence[str]:
        return self.output

    def ask(self, *arguments: str) -> list[str]:
        return list(self.follow(*arguments))

    def follow(self, *arguments: str) -> Iterator[str]:
        self.asked.append(arguments)
        for item in self.answers.pop(0):
            if isinstance(item, LonghaulError | CalledAgain):
                raise item
            yield item
