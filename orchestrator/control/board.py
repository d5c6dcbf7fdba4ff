"""The board: a few numbers shared by a node actor and one of its ranks, without a call between them.

The rank, through all its jobs, shows step, phase and that it lives; the node actor shows the controller's word and how
long the lease runs.
It is an anonymous memory file reached through /proc/<node actor>/fd: nothing can be left behind, whoever dies how."""

import mmap
import os
import struct
import time
from typing import Final

from orchestrator.core.words import Word

PHASES: Final = ("", "start", "data", "step", "evaluate", "checkpoint")
_FIELDS: Final = ("step", "phase", "progress", "word", "lease_until_ns", "busy_ns", "begun")
_OFFSET: Final = {name: 8 * i for i, name in enumerate(_FIELDS)}
_SIZE: Final = mmap.PAGESIZE


class Board:
    """Single aligned 8-byte fields, each with one writer: reads and writes need no lock."""

    def __init__(self, handle: int) -> None:
        self._handle, self._map = handle, mmap.mmap(handle, _SIZE)

    @classmethod
    def create(cls) -> tuple["Board", str]:
        """A new board and the path under which another process of this user and pid namespace opens it."""
        handle = os.memfd_create("longhaul-board")
        os.truncate(handle, _SIZE)
        return cls(handle), f"/proc/{os.getpid()}/fd/{handle}"

    @classmethod
    def open(cls, path: str) -> "Board":
        handle = os.open(path, os.O_RDWR)
        try:
            return cls(handle)
        finally:
            os.close(handle)  # the mapping keeps the memory

    def _get(self, name: str) -> int:
        value: int = struct.unpack_from("<q", self._map, _OFFSET[name])[0]
        return value

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("<q", self._map, _OFFSET[name], value)

    def close(self) -> None:
        """Nobody opens it any more. What it shows last stays readable here. For the creator."""
        os.close(self._handle)

    # the rank's side: this is a core.news.Helm
    def word(self) -> Word:
        return Word(self._get("word"))

    def show(self, step: int, phase: str) -> None:
        self._set("step", step)
        self._set("phase", PHASES.index(phase))
        self._set("progress", self._get("progress") + 1)
        if phase == "step":
            self._set("begun", self._get("begun") + 1)

    def show_busy(self, seconds: float) -> None:
        self._set("busy_ns", int(seconds * 1e9))

    def lease_lapsed(self) -> bool:
        return time.monotonic_ns() > self._get("lease_until_ns")

    # the node actor's side
    def say(self, word: Word) -> None:
        self._set("word", int(word))

    def renew(self, seconds: float) -> None:
        self._set("lease_until_ns", time.monotonic_ns() + int(seconds * 1e9))

    @property
    def step(self) -> int:
        return self._get("step")

    @property
    def phase(self) -> str:
        return PHASES[self._get("phase")]

    @property
    def busy_s(self) -> float:
        return self._get("busy_ns") / 1e9

    @property
    def progress(self) -> int:
        return self._get("progress")

    @property
    def begun(self) -> int:
        """How many steps it has begun, in all its jobs."""
        return self._get("begun")
