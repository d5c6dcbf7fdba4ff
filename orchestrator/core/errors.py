"""The error tree. Every message says what happened, where, and what to change; each class carries its exit code.

All survive pickling, since they travel between Ray processes."""

from typing import Any

from orchestrator.core.words import ExitCode


class LonghaulError(Exception):
    """Something a person can act on. Shown without a traceback."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.remedy = message, where, remedy

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\n  -> {self.remedy}" if self.remedy else head

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.where, self.remedy)


def _rebuild(cls: type[LonghaulError], message: str, where: str, remedy: str) -> LonghaulError:
    return cls(message, where=where, remedy=remedy)


class BadInput(LonghaulError):
    """Usage, config or data that cannot be used. Raised before anything has started."""

    exit_code = ExitCode.BAD_INPUT


class ConfigError(BadInput):
    """One or more config keys are wrong; the message lists every one."""


class DataError(BadInput):
    """A dataset, shard, index or prepared file that cannot be used."""


class ClusterError(BadInput):
    """The Ray cluster cannot be reached or cannot be used."""


class DoesNotFit(LonghaulError):
    """The plan needs more than the machines have."""

    exit_code = ExitCode.DOES_NOT_FIT


class NotVerified(LonghaulError):
    """A proof failed: ledger, checksum or comparison."""

    exit_code = ExitCode.NOT_VERIFIED


class NotPrepared(LonghaulError):
    """A segment is needed that is still being prepared. Whoever can wait for it does; others try again later."""

    exit_code = ExitCode.PREEMPTED


class StoreDown(LonghaulError):
    """A store that has failed for as long as data.store.retry_for_s allows. Nothing is lost: try again later."""

    exit_code = ExitCode.PREEMPTED


class CheckpointDamaged(LonghaulError):
    """A checkpoint is incomplete or its bytes are not those that were written."""


class TrainingFailed(LonghaulError):
    """The user's job failed: a rank raised, or numbers went wrong beyond repair."""


class Superseded(LonghaulError):
    """Another controller has claimed a higher generation; this one must stop."""


class WorldLeft(BaseException):
    """A rank is to leave its broken world, whatever it does there. No Exception: whoever deals with failures, as those
    who ask a store again do, would take it for one of theirs."""
