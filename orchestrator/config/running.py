"""Sections about the job: cluster, elastic, checkpoint, tracking."""

import re
from typing import Literal

from pydantic import field_validator, model_validator

from orchestrator.config.marks import CountOrAuto, Section, free, identity, rounding

_SECRET_NAME = re.compile(r"(^|_)(API_?KEY|ACCESS_KEY|TOKEN|SECRET|PASSWORD|PASSWD)(_|$)")


class NodesSection(Section):
    min: int = rounding("start when this many nodes are there", 1, ge=1)
    max: int = rounding("use at most this many", 1, ge=1)

    @model_validator(mode="after")
    def keep_min_below_max(self) -> "NodesSection":
        if self.min > self.max:
            raise ValueError(f"nodes.min {self.min} is above nodes.max {self.max}")
        return self


class ClusterSection(Section):
    address: str = free(
        "local starts a Ray for this run; otherwise host:port of a Ray head, or auto", "local", min_length=1
    )
    shared: str | None = free(
        "folder that all nodes see alike, where relative paths of this config start; else where the command is given",
        None,
    )
    nodes: NodesSection = rounding("how many nodes", NodesSection())
    ranks_per_node: int = rounding("ranks on each node; on CUDA one GPU each", 1, ge=1)
    spares: int = free("warm rank processes on each node that take the place of dead ones", 1, ge=0)
    spare_nodes: int = free("nodes above nodes.max that are held, warm and idle, for when one is lost", 0, ge=0)
    cpus_per_rank: CountOrAuto = rounding("CPU threads each rank computes with", "auto")
    device: Literal["auto", "cpu", "cuda"] = rounding("what ranks compute on", "auto")
    device_memory_gb: float | None = free(
        "memory a rank may use, for plans; read from this machine when absent", None, gt=0
    )
    start_timeout_s: float | None = free("give up when nodes.min are not there by then; none waits on", None, gt=0)
    env: dict[str, str] = free("environment variables of the ranks; no secrets", {})

    @field_validator("env")
    @classmethod
    def refuse_secrets(cls, env: dict[str, str]) -> dict[str, str]:
        """A config is written into the run directory, and is read by everybody who sees it."""
        secrets = [name for name in env if _SECRET_NAME.search(name.upper())]
        if secrets:
            raise ValueError(
                f"{', '.join(secrets)} looks like a secret, and configs are written down: "
                "set it in the environment in which Ray is started"
            )
        return env


class SpikeSection(Section):
    """When a loss counts as a leap, above the mean of the last steps by more than both of these; and what then."""

    action: Literal["tell", "void"] = free(
        "tell: with what was fed; void: also go back to before the step, and leave its batch out of the run", "tell"
    )

    steps: int = free("so many steps before it say what is usual; in the first ones of a run nothing is", 50, ge=2)
    deviations: float = free("standard deviations of their losses", 6.0, gt=0)
    least_rise: float = free("share of their mean, since losses may hardly differ", 0.1, ge=0)


class ElasticSection(Section):
    heartbeat_timeout_s: float = free("silence after which a node counts as lost", 5.0, gt=0)
    lease_s: float = free("ranks that hear nothing from a controller for this long end themselves", 15.0, gt=0)
    step_timeout_s: float | Literal["auto"] | None = free(
        "a rank without progress for so long that holds up others is ended and replaced; auto: heartbeat_timeout_s "
        "or a few times the longest step, whichever is more; none: nobody looks",
        "auto",
    )
    abort_timeout_s: float = free(
        "ranks that do not leave a broken world within this time are ended and replaced", 2.0, gt=0
    )
    restart_budget: int = free("failures after which the run gives up", 20, ge=0)
    forget_after_s: float = free("a failure counts against restart_budget for this long", 3600.0, gt=0)
    bad_node_after: int = free("failures on one node after which it is avoided", 3, ge=1)
    bad_node_for_s: float = free("for how long a node is avoided, and failures on it are remembered", 3600.0, gt=0)
    max_voided: int = free("batches left out of the run for their numbers, above which the run fails", 10, ge=0)
    spike: SpikeSection | None = free("what to do about losses that leap; none: nothing", SpikeSection())


class KeepSection(Section):
    last: int = free("newest checkpoints to keep", 3, ge=1)
    best: int = free("checkpoints to keep whose validations are the best, by evaluate.best_by", 0, ge=0)


class CheckpointSection(Section):
    every_steps: int | None = free("steps between durable checkpoints; the last step always has one", None, ge=1)
    snapshot_every: CountOrAuto | None = free(
        "steps between snapshots in memory, from which ranks go on after a fault; auto: at most 1 % of the time", "auto"
    )
    keep: KeepSection = free("which checkpoints stay", KeepSection())
    store: str | None = free(
        "URL of a folder in an object store (asked as data.store says) for checkpoints, below the run's name; none: "
        "the run directory",
        None,
        pattern=r"^(s3|gs|gcs|az|abfs|abfss)://[^/]+",
    )


class WandbSection(Section):
    mode: Literal["auto", "online", "offline", "off"] = free("auto: online with an API key, else offline", "auto")
    project: str = free("project to log to", "longhaul", min_length=1)
    entity: str | None = free("team or user; the account's default when absent", None)
    group: str | None = free("group of runs", None)
    tags: list[str] = free("tags", [])
    notes: str | None = free("notes of the run, above the command that resumes it", None)
    alerts: bool = free("alert when the run ends, with the reason when it failed", True)


class TrackingSection(Section):
    wandb: WandbSection = free("Weights & Biases", WandbSection())
    system_every_s: float | None = free("seconds between samples of each node's CPUs and GPUs; none: off", 15.0, ge=1)


class RunFields(Section):
    """The keys at the top of a config."""

    name: str = free(
        "the run directory is <root>/<name>; at most 100 of A-Z a-z 0-9 . _ -",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
    )
    code: str | None = free("folder with modules of your own, for dotted names; none: those that are installed", None)
    root: str = free("folder of run directories; all nodes must see it alike", "runs")
    seed: int = identity("key of every random number of the run", 0, ge=0, lt=2**63)
