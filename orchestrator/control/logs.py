"""What a process of a run prints goes into the run's own logs/, also what libraries print past Python, within a limit.

The file is handed to the process as its descriptors 1 and 2, so nothing stands between a dying process and its last
words. A log that has grown too long is renamed, and the descriptors get a new file (storage/logfiles.py names them)."""

import fcntl
import io
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from orchestrator.storage.logfiles import list_log_files, rotated_file

_OUTPUTS = (1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """A log begins a new file once one is longer than `file_bytes`; the newest `files` stay."""

    file_bytes: int = 16 * 2**20
    files: int = 8
    check_every_s: float = 1.0  # below logfiles.LINGER_S, so that readers miss nothing


ROTATION = Rotation()


def keep_output(folder: Path, name: str, rotation: Rotation | None = ROTATION) -> None:
    """From here on, stdout, stderr and log records of this process are appended to <folder>/<name>.log.

    Without `rotation` no thread is started: for a process that forks, and prints little."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.log"
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for output in _OUTPUTS:
        _point(output, path)
    sys.stdout, sys.stderr = (_text_to(output) for output in _OUTPUTS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    if rotation is not None:
        threading.Thread(target=_keep_within, args=(path, rotation), name="logs", daemon=True).start()


def _keep_within(path: Path, rotation: Rotation) -> None:
    while True:
        time.sleep(rotation.check_every_s)
        for output in _OUTPUTS:
            with suppress(OSError):  # the disk is full, or the store away: go on with the file there is, try again
                if os.fstat(output).st_size > rotation.file_bytes:
                    _change_file(output, path, rotation.files)


def _change_file(output: int, path: Path, files: int) -> None:
    """Each descriptor, of each process that writes this log, comes here once its own file is too long. The first one
    renames it, the others only follow to the new one."""
    if not _lock(output):
        return
    try:
        if path.exists() and os.path.samestat(os.fstat(output), path.stat()):
            _rename(path, files)
    finally:
        _unlock(output)
    _point(output, path)


def _rename(path: Path, files: int) -> None:
    numbers = list_log_files(path.parent)[path]
    path.rename(rotated_file(path, numbers[-1]))
    for number in numbers[: max(0, len(numbers) + 1 - files)]:
        rotated_file(path, number).unlink(missing_ok=True)


def _lock(output: int) -> bool:
    """False when another process is just renaming this very file."""
    try:
        fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks; two processes share a log for moments only
        return True
    return True


def _unlock(output: int) -> None:
    with suppress(OSError):
        fcntl.flock(output, fcntl.LOCK_UN)


def _point(output: int, path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(handle, output)
    os.close(handle)


def _text_to(output: int) -> TextIO:
    """Whole lines, at once: none is torn by a rename or held back when the process is killed."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(output, "wb", closefd=False)),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


class _Output(io.FileIO):
    """A full disk must not end a run because somebody prints: what cannot be written is counted, and said later."""

    _lost_bytes = 0

    def write(self, data: Any, /) -> int:
        try:
            if self._lost_bytes:
                super().write(b"[%d bytes could not be written]\n" % self._lost_bytes)
                self._lost_bytes = 0
            return super().write(data)
        except OSError:
            self._lost_bytes += len(data)
            return len(data)
