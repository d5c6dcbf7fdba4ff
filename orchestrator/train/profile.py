"""What torch's profiler sees of some steps of a rank: a trace, the operators by time, and on CUDA a map of memory.

Called by loop.py around every step of an excerpt; `longhaul profile` asks for one and shows the operators."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from orchestrator.core.words import Excerpt
from orchestrator.storage.publish import publish_bytes, publish_json

MOST_OPERATORS = 200
MOST_ALLOCATIONS = 200_000  # remembered for the map of memory


class StepProfiler:
    """Idle but for the excerpt's steps, on the ranks that it names."""

    def __init__(self, excerpt: Excerpt | None, rank: int, device: torch.device) -> None:
        asked = excerpt is not None and excerpt.folder is not None and excerpt.includes(rank)
        self._excerpt = excerpt if asked else None
        self._rank, self._on_cuda = rank, device.type == "cuda"
        self._profile: Any = None
        self._is_watching = False

    @contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Around one step."""
        if self._excerpt is None or step < self._excerpt.first_step:
            yield
            return
        if self._profile is None:
            self._start()
        with record_function(f"step {step}"):
            yield
        if step + 1 == self._excerpt.stop_step:
            self._finish(self._excerpt)

    def close(self) -> None:
        """If training ended before the excerpt did."""
        if self._is_watching:
            self._profile.stop()
            if self._on_cuda:
                torch.cuda.memory._record_memory_history(enabled=None)

    def _start(self) -> None:
        if self._on_cuda:
            torch.cuda.memory._record_memory_history(max_entries=MOST_ALLOCATIONS)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_cuda else [])]
        self._profile = profile(activities=activities, record_shapes=True, profile_memory=True)
        self._profile.start()
        self._is_watching = True

    def _finish(self, excerpt: Excerpt) -> None:
        assert excerpt.folder is not None
        self._profile.stop()
        self._is_watching = False
        name = f"rank-{self._rank:05d}"
        self._profile.export_chrome_trace(str(excerpt.folder / f"{name}.trace.json.gz"))
        if self._on_cuda:
            write_memory_map(excerpt.folder / f"{name}.memory.html")
        publish_json(excerpt.folder / f"{name}.json", {"format": 1, "operators": self._list_operators()})

    def _list_operators(self) -> list[dict[str, Any]]:
        """The ones that took the most time themselves, on the device that computes; seconds over all steps."""
        time_name = "self_device_time_total" if self._on_cuda else "self_cpu_time_total"
        events = sorted(self._profile.key_averages(), key=lambda event: -getattr(event, time_name))
        return [
            {"name": event.key, "calls": event.count, "self_s": getattr(event, time_name) / 1e6}
            for event in events[:MOST_OPERATORS]
            if getattr(event, time_name) > 0
        ]


def write_memory_map(path: Path) -> None:
    """Every allocation over time, as a page for a browser. torch's own file of it would be a pickle."""
    from torch.cuda._memory_viz import trace_plot

    snapshot = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    publish_bytes(path, trace_plot(snapshot).encode())  # type: ignore[no-untyped-call]
