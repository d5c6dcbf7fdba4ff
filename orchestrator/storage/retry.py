"""Asks a store again until it answers, with exponential back-off and full jitter, or says for good that it does not.

Between remote.py and fsspec's packages, whose own retries are off or short, so that data.store.retry_for_s holds."""

import logging
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from orchestrator.core.clock import Clock
from orchestrator.core.errors import DataError, LonghaulError, StoreDown

T = TypeVar("T")
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0
_PASSING_STATUS = (408, 425, 429)  # of the 4xx; all others are final, and 5xx are not
_CHANGED_STATUS = 412  # If-Match
# Failures of the way to a store, by name, since their packages (botocore, aiohttp, httpx, ...) need not be installed.
_PASSING = {
    "OSError",
    "HTTPClientError",
    "ResponseParserError",
    "IncompleteReadError",
    "ClientError",
    "TransportError",
    "ServiceRequestError",
    "ServiceResponseError",
    "HttpError",
    "HTTPException",
}
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
log = logging.getLogger(__name__)


class Retry:
    """Patience with one store. Threads share it, so the log tells once when the store fails and when it is back."""

    def __init__(self, store: str, retry_for_s: float, clock: Clock) -> None:
        self.store, self.retry_for_s, self.clock = store, retry_for_s, clock
        self._lock = threading.Lock()
        self._failing_since: float | None = None

    def call(self, where: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, once it does. `where` names the object for the message of a final failure."""
        began, failures = None, 0
        while True:
            try:
                answer = attempt()
            except LonghaulError:
                raise
            except Exception as error:
                if not is_passing(error):
                    raise _refuse(where, error) from error
                now = self.clock.monotonic()
                began, failures = now if began is None else began, failures + 1
                self._note_failure(where, error, now)
                left = began + self.retry_for_s - now
                if left <= 0:
                    raise self._give_up(where, error, failures) from error
                self.clock.sleep(min(left, choose_pause(failures)))
            else:
                self._note_answer()
                return answer

    def _note_failure(self, where: str, error: Exception, now: float) -> None:
        with self._lock:
            if self._failing_since is None:
                self._failing_since = now
                log.warning(
                    "store %s fails, trying again for up to %.0f s: %s: %s",
                    self.store,
                    self.retry_for_s,
                    where,
                    describe(error),
                )

    def _note_answer(self) -> None:
        if self._failing_since is None:
            return
        with self._lock:
            since, self._failing_since = self._failing_since, None
        if since is not None:
            log.warning("store %s is back after %.1f s", self.store, self.clock.monotonic() - since)

    def _give_up(self, where: str, error: Exception, failures: int) -> StoreDown:
        return StoreDown(
            f"no answer after {failures} tries in {self.retry_for_s:.0f} s; the last one: {describe(error)}",
            where=f"{self.store} ({where})",
            remedy="nothing is lost: resume when the store answers, or raise data.store.retry_for_s",
        )


def choose_pause(failures: int) -> float:
    """Anything up to a bound that doubles, so that many ranks do not come back together."""
    return random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures, 16)))


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    status = find_status(error)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUS
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return is_passing(error.__cause__)  # fsspec's http says so whatever has happened
    if isinstance(error, (*_FINAL, ValueError)) or str(error).startswith("Forbidden"):  # gcsfs's 403, an OSError
        return False
    return any(kind.__name__ in _PASSING for kind in type(error).__mro__)


def find_status(error: BaseException | None) -> int | None:
    """The HTTP status that a failure came with, as each package keeps it."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):  # botocore
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        elif type(error).__name__ == "HttpError":  # gcsfs; aiohttp's parser has a code too, which is no answer
            status = getattr(error, "code", None)
        else:  # aiohttp; azure; httpx
            status = getattr(error, "status", getattr(error, "status_code", getattr(answer, "status_code", None)))
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def describe(error: BaseException) -> str:
    """One line about a failure that may have no text of its own."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _refuse(where: str, error: Exception) -> DataError:
    status = find_status(error)
    if status == _CHANGED_STATUS:
        return has_changed(where)
    if isinstance(error, FileNotFoundError) or status == 404:
        return DataError("is not there", where=where, remedy="put it back, or correct data.train[].path")
    return DataError(
        f"the store refuses: {describe(error)}",
        where=where,
        remedy="correct data.train[].path or checkpoint.store, data.store.options, or the credentials in the "
        "environment (docs/stores.md)",
    )


def has_changed(where: str) -> DataError:
    """For bytes that are not those that were indexed."""
    return DataError(
        "has changed since it was indexed",
        where=where,
        remedy="run longhaul prepare again; a run goes on only with the bytes it began with",
    )
