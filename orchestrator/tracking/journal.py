"""The journal: what the controller decided and saw, one file a generation. Creating the file is claiming the
generation, so of two controllers exactly one goes on; the other finds a higher file and stops."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.core.clock import Clock
from orchestrator.core.errors import Superseded
from orchestrator.storage.lines import LineFile, read_lines
from orchestrator.storage.publish import create_exclusive

Event = dict[str, Any]


def generation_file(events: Path, generation: int) -> Path:
    return events / f"g{generation:04d}.jsonl"


def generations(events: Path) -> list[int]:
    """Claimed generations, oldest first."""
    return sorted(int(path.stem[1:]) for path in events.glob("g[0-9]*.jsonl"))


class Journal:
    """The open journal of one generation. Only its controller appends. `about`: what the claim says beside that."""

    def __init__(self, events: Path, generation: int, clock: Clock, about: Mapping[str, Any]) -> None:
        self.generation = generation
        self._events, self._clock, self._about = events, clock, about
        self._lines = LineFile(generation_file(events, generation))

    @classmethod
    def claim(cls, events: Path, clock: Clock, *, after: int | None = None, **about: Any) -> "Journal":
        """Claim the next generation. With `after`, what follows that one must have been claimed for the same `charge`:
        else another has taken over."""
        while True:
            newest = max(generations(events), default=0)
            if after is not None and newest > after and _charge_of(events, newest) != about["charge"]:
                raise _superseded(events, newest)
            head = _head(clock, newest + 1, **about)
            try:
                create_exclusive(generation_file(events, newest + 1), _line(head))
            except FileExistsError:
                continue
            return cls(events, newest + 1, clock, about)

    def claim_next(self) -> "Journal":
        """Claim the generation after this one, which ends with that. Whoever did so first has taken over."""
        generation = self.generation + 1
        head = _head(self._clock, generation, **self._about)
        try:
            create_exclusive(generation_file(self._events, generation), _line(head))
        except FileExistsError:
            raise _superseded(self._events, generation) from None
        self.close()
        return Journal(self._events, generation, self._clock, self._about)

    def close(self) -> None:
        self._lines.close()

    def append(self, event: str, **fields: Any) -> None:
        """Write one event to disk before its consequences happen."""
        self.refuse_if_superseded()
        self._lines.append([_event(self._clock, event, **fields)], durable=True)

    def refuse_if_superseded(self) -> None:
        """Whoever has slept while another controller took over finds out here, before it says anything to anybody."""
        if generation_file(self._events, self.generation + 1).exists():
            raise _superseded(self._events, self.generation + 1)


def read_events(events: Path) -> Iterator[Event]:
    """All events of a run in order; each also says its generation."""
    for generation in generations(events):
        for event in read_lines(generation_file(events, generation)):
            yield {"generation": generation, **event}


def _charge_of(events: Path, generation: int) -> str:
    """In journals of earlier versions none is named."""
    head = next(read_lines(generation_file(events, generation)), {})
    return str(head.get("charge", ""))


def _superseded(events: Path, generation: int) -> Superseded:
    return Superseded(f"generation {generation} has been claimed by another controller", where=str(events))


def _head(clock: Clock, generation: int, **fields: Any) -> Event:
    return {"format": 1, **_event(clock, "claimed", generation=generation, host=socket.gethostname(), **fields)}


def _event(clock: Clock, event: str, **fields: Any) -> Event:
    return {"t": round(clock.now(), 3), "event": event, "pid": os.getpid(), **fields}


def _line(event: Event) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"
