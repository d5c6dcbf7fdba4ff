"""Weights & Biases itself: the only place that imports wandb. mirror.py copies rows into the run that is started here.

Online there is one W&B run over all attempts, continued after the last step that the server has; offline each start
makes a new segment."""

import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.run import RunConfig
from orchestrator.storage.publish import create_exclusive, publish_json, read_json

Mode = Literal["online", "offline"]


# ---- what a run directory knows of W&B ----


def read_run_id(run_dir: Path) -> str:
    """The W&B id of this run, made on the first call."""
    path = run_dir / "wandb" / "run_id.json"
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # another process was faster
            create_exclusive(path, json.dumps({"format": 1, "id": secrets.token_hex(4)}).encode())
    return str(read_json(path)["id"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Online:
    """Where W&B shows this run. `stopped`: once, its Stop button has stopped it."""

    url: str
    stopped: bool = False

    def write(self, run_dir: Path) -> None:
        fields = {"id": read_run_id(run_dir), "url": self.url, "stopped": self.stopped}
        publish_json(run_dir / "wandb" / "online.json", {"format": 1, **fields})


def read_online(run_dir: Path) -> Online | None:
    """None as long as W&B has not heard of the run."""
    path = run_dir / "wandb" / "online.json"
    if not path.exists():
        return None
    fields = read_json(path)
    return Online(url=fields["url"], stopped=fields["stopped"])


def read_url(run_dir: Path) -> str | None:
    online = read_online(run_dir)
    return online.url if online is not None else None


# ---- W&B itself ----


def default_host() -> str:
    """Where W&B would send runs: its environment and settings files say."""
    import wandb

    try:
        return str(wandb.setup(wandb.Settings(mode="disabled")).settings.base_url)  # without its core process
    finally:
        wandb.teardown()


def start_run(
    config: RunConfig,
    about: dict[str, Any],
    run_dir: Path,
    mode: Mode,
    *,
    init_timeout_s: float,
    finish_timeout_s: float,
    on_stop_button: Callable[[], None],
) -> Any:
    """A wandb.Run. `on_stop_button` is called from another thread, at most once."""
    import wandb  # here, since it takes half a second that the scribe's first row should not wait for

    chosen = config.tracking.wandb
    earlier = read_online(run_dir) if mode == "online" else None
    settings = wandb.Settings(
        init_timeout=init_timeout_s,
        finish_timeout=finish_timeout_s,
        finish_timeout_raises=True,
        stop_fn=on_stop_button,
        silent=True,
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,  # the command line of a Ray worker holds session secrets
        x_disable_stats=True,  # of the scribe's own process, which nobody wants to see
    )
    wandb.setup(settings)  # makes the parts outside a run silent too
    run = wandb.init(
        id=read_run_id(run_dir),
        name=config.name,
        project=chosen.project,
        entity=chosen.entity,
        group=chosen.group,
        job_type="train",
        # what people have written on the web page stays
        tags=chosen.tags if earlier is None else None,
        notes=_notes(config, run_dir) if earlier is None else None,
        config=run_config(config, about),
        dir=run_dir,
        mode=mode,
        resume="allow" if mode == "online" else None,
        allow_val_change=True,  # a resume may change free keys
        settings=settings,
    )
    run.define_metric("validation/*", summary="min")
    run.define_metric("system/*", summary="none")  # hundreds of columns in the table of runs
    if mode == "online":
        if missing := [tag for tag in chosen.tags if tag not in (run.tags or ())]:
            run.tags = (*(run.tags or ()), *missing)
        Online(url=run.url, stopped=earlier is not None and earlier.stopped).write(run_dir)
    return run


def run_config(config: RunConfig, about: dict[str, Any]) -> dict[str, Any]:
    """What W&B shows as the run's config. Environment variables stay here: people do put secrets there."""
    return config.model_dump(mode="json", exclude={"cluster": {"env"}}) | {"longhaul": about}


def _notes(config: RunConfig, run_dir: Path) -> str:
    notes = config.tracking.wandb.notes
    return (f"{notes}\n\n" if notes else "") + f"`{resume_command(run_dir)}`"


def resume_command(run_dir: Path) -> str:
    return f"longhaul resume {run_dir}"


def end_core() -> None:
    """End wandb's core process: it may be dead or stuck, and the next mode needs one of its own."""
    with contextlib.suppress(Exception, SystemExit):  # it exits when its core process failed
        import wandb

        wandb.teardown()
