"""Run directories as a controller and a scribe leave them, for tests of what reads them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.storage.lines import LineFile
from orchestrator.storage.publish import publish_json
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.lease import Lease, host_identity, write_lease
from orchestrator.tracking.now import NodeOffer, Now, RankNow, Waiting, write_now
from orchestrator.tracking.rundir import RunDir
from tests.fakes.clock import FakeClock

CONFIG: dict[str, Any] = {
    "name": "demo",
    "data": {"train": [{"path": "data"}], "split": {"validation": 0.1}},
    "prepare": {"tokens": {"train_bpe": 512}},
    "task": {"seq_len": 16},
    "model": {"transformers": {"model_type": "llama"}},
    "optim": {"lr": 1e-3},
    "train": {"steps": 2_000, "global_batch": 8},
    "evaluate": {"every_steps": 100},
}


class WrittenRun:
    """A run on a fake clock, written event by event and row by row."""

    def __init__(self, path: Path, clock: FakeClock, steps: int = 2_000) -> None:
        self.clock, self.run_dir = clock, RunDir(path)
        config = RunConfig.model_validate(CONFIG | {"train": CONFIG["train"] | {"steps": steps}})

        def fill(folder: Path) -> None:
            (folder / "config.yaml").write_text(dump_yaml(config))
            publish_json(folder / "plan.json", {"format": 1})
            publish_json(folder / "manifest.json", {"format": 1})

        self.run_dir.create(fill)
        os.utime(self.run_dir.config, (clock.now(), clock.now()))
        self._journal: Journal | None = None
        self._rows: LineFile | None = None
        self._world_size = 0

    @property
    def journal(self) -> Journal:
        assert self._journal is not None
        return self._journal

    def claim(self, *, held: bool = True) -> None:
        """A controller takes charge; `held`: it is this process, which lives."""
        if self._journal is not None:
            self._journal.close()
        self._journal = Journal.claim(self.run_dir.events, self.clock, address="10.0.0.1:6379")
        if held:
            self.hold()
        else:
            self.let_go()

    def hold(self) -> None:
        write_lease(
            self.run_dir.lease,
            generation=self.journal.generation,
            lease_s=15.0,
            address="10.0.0.1:6379",
            clock=self.clock,
            pids=[],
            all_here=True,
        )

    def let_go(self) -> None:
        """Its processes are dead now."""
        dead = Lease(
            generation=self.journal.generation,
            t=self.clock.now(),
            lease_s=15.0,
            address="10.0.0.1:6379",
            host=host_identity(),
            members=[(os.getpid(), 1.0)],
            all_here=True,
        )
        publish_json(self.run_dir.lease, {"format": 1, **asdict(dead)})

    def start(self, nodes: int, ranks: int, checkpoint: str | None = None) -> None:
        self._world_size = nodes * ranks
        self.journal.append("warming", nodes=[f"id-{node}" for node in range(nodes)])
        self.journal.append(
            "started",
            world_size=nodes * ranks,
            checkpoint=checkpoint,
            node_actors=[f"demo:node-{node}" for node in range(nodes)],
        )

    def train(self, steps: Iterable[int], *, step_s: float = 0.5, loss: Sequence[float] | None = None) -> None:
        """One row a step, while the clock goes on."""
        if self._rows is None:
            self._rows = LineFile(self.run_dir.path / "metrics.jsonl", head={"format": 1})
        rows = []
        for step in steps:
            self.clock.sleep(step_s)
            value = loss[step] if loss is not None else 1.0 + 5.0 / (1.0 + step / 50)
            rows.append(self.row(step, value, step_s))
        self._rows.append(rows)

    def row(self, step: int, loss: float, step_s: float) -> dict[str, Any]:
        return {
            "step": step,
            "generation": self.journal.generation,
            "loss": loss,
            "world_size": self._world_size,
            "tokens": 4_096,
            "samples": 8,
            "step_s": step_s,
            "data_wait_s": 0.01 * step_s,
            "applied": True,
            "t": self.clock.now(),
        }

    def write_rows(self, *rows: dict[str, Any]) -> None:
        assert self._rows is not None
        self._rows.append(rows)

    def evaluate(self, step: int, loss: float, perplexity: float) -> None:
        where = {"step": step, "generation": self.journal.generation, "kind": "evaluation", "split": "validation"}
        self.write_rows({**where, "loss": loss, "perplexity": perplexity, "t": self.clock.now()})

    def save(self, step: int) -> str:
        folder = f"step-{step:08d}-g{self.journal.generation:04d}"
        self.journal.append("checkpoint", step=step, folder=folder, seconds=1.2, size_bytes=1)
        return folder

    def restart(self, reason: str) -> None:
        self.journal.append("fault", kind="rank", reason=reason, culprits=[], nodes=[])
        self.claim()

    def show(self, ranks: Sequence[RankNow] = (), waiting: Waiting | None = None) -> None:
        phase = "waiting" if waiting else "running"
        now = Now(
            t=self.clock.now(), generation=self.journal.generation, phase=phase, waiting=waiting, ranks=list(ranks)
        )
        write_now(self.run_dir.path, now)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
        if self._rows is not None:
            self._rows.close()


def ranks_now(
    nodes: int, ranks: int, step: int, busy_s: float = 0.4, slow: dict[int, float] | None = None
) -> list[RankNow]:
    """A world in training; `slow`: ranks that are busy for longer."""
    return [
        RankNow(
            rank=rank,
            host=f"node-{rank // ranks}",
            local_rank=rank % ranks,
            pid=4_000 + rank,
            state="training",
            step=step,
            phase="step",
            busy_s=(slow or {}).get(rank, busy_s),
        )
        for rank in range(nodes * ranks)
    ]


def offer(host: str, free: dict[str, float], total: dict[str, float], why_not: str) -> NodeOffer:
    return NodeOffer(host=host, node_id=f"id-{host}", free=free, total=total, why_not=why_not)
