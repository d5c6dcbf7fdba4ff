"""From a run directory to the run's status, at a cost that does not grow with the run.

Comes after the journal, metrics.jsonl and now.json. `status` and `list` end up here, once a second when they watch."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import Clock
from orchestrator.core.words import RunState
from orchestrator.storage.publish import read_json
from orchestrator.tracking.glance import last_evaluation, last_steps, sample_rows, thin_out, true_steps
from orchestrator.tracking.goodput import label_time
from orchestrator.tracking.journal import Event, read_events
from orchestrator.tracking.lease import read_lease
from orchestrator.tracking.now import Now, read_now
from orchestrator.tracking.rows import METRICS_FILE, Row
from orchestrator.tracking.rundir import RunDir, RunView, view_of
from orchestrator.tracking.sentences import describe_event
from orchestrator.tracking.slow import find_slow
from orchestrator.tracking.status import EventLine, LastCheckpoint, RankStatus, RunStatus, SeenState, Validation
from orchestrator.tracking.wandb import read_url

RECENT_STEPS = 50
CURVE_POINTS = 60
LAST_EVENTS = 8
_SMALL = {"freed", "left", "training"}  # what stands between a fault and the next start


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What is read of every run."""

    run_dir: RunDir
    now: float
    config: RunConfig
    events: list[Event]
    view: RunView
    state: SeenState
    steps: list[Row]  # the last ones of the newest generation that has any


def read_summary(run_dir: RunDir, clock: Clock) -> RunStatus:
    """What a list of runs needs: state, step, loss, world and times."""
    return _summary_of(_look_at(run_dir, clock))


def read_status(run_dir: RunDir, clock: Clock) -> RunStatus:
    """All of it."""
    look = _look_at(run_dir, clock)
    summary = _summary_of(look)
    metrics = run_dir.path / METRICS_FILE
    rows = sample_rows(metrics)
    spent = label_time(look.events, rows, _until(look))
    sample = [row for row in true_steps(row for row in rows if "kind" not in row) if row["step"] < summary.step]
    return replace(
        summary,
        losses=thin_out(_fed(sample), "loss", CURVE_POINTS),
        validation=_validation(metrics, look.config, summary.step),
        checkpoint=_last_checkpoint(look.events),
        prepared=_prepared(look),
        goodput=spent.goodput,
        seconds={label: round(seconds, 3) for label, seconds in spent.seconds.items()},
        restarts=sum(event["event"] in ("fault", "restarting") for event in look.events),
        events=[EventLine(t=event["t"], text=describe_event(event)) for event in _last_events(look.events)],
        wandb_url=read_url(run_dir.path),
        **_pace(look, summary),
        **_seen_by_controller(look, read_now(run_dir.path)),
    )


# what every status has


def _look_at(run_dir: RunDir, clock: Clock) -> _Look:
    events = list(read_events(run_dir.events))
    view = view_of(events, read_lease(run_dir.lease), run_dir.touched)
    steps = last_steps(run_dir.path / METRICS_FILE, RECENT_STEPS)
    newest = max((row["generation"] for row in steps), default=0)
    return _Look(
        run_dir=run_dir,
        now=clock.now(),
        config=load_config(run_dir.config).config,
        events=events,
        view=view,
        state=_state_of(view, clock),
        steps=[row for row in steps if row["generation"] == newest],
    )


def _state_of(view: RunView, clock: Clock) -> SeenState:
    if view.lost(clock):
        return SeenState.LOST
    return SeenState.PREPARING if view.generation == 0 else SeenState(view.state)


def _summary_of(look: _Look) -> RunStatus:
    view, events = look.view, look.events
    last = look.steps[-1] if look.steps else {}
    fed = _fed(look.steps)
    last_event_t = events[-1]["t"] if events else look.run_dir.config.stat().st_mtime
    world = {} if look.state is SeenState.PENDING else view.started
    return RunStatus(
        name=look.run_dir.path.name,
        path=str(look.run_dir.path),
        state=look.state,
        read_at=look.now,
        reason=_reason(look),
        exit_code=int(view.exit_code) if view.state.ended else None,
        started_at=events[0]["t"] if events else None,
        updated_at=max(last_event_t, last.get("t", 0.0)),
        step=_step(look),
        steps=look.config.train.steps,
        step_at=last.get("t"),
        loss=fed[-1]["loss"] if fed else None,
        generation=view.generation,
        world_size=world.get("world_size"),
        nodes=len(world["node_actors"]) if world else None,
    )


def _reason(look: _Look) -> str:
    if look.state is SeenState.LOST:
        hosts = [event["host"] for event in look.events if event["event"] == "claimed"]
        return f"its controller on {hosts[-1]} is gone" if hosts else "no controller has taken charge of it"
    return look.view.reason if look.view.state.ended else ""


def _step(look: _Look) -> int:
    """Updates done. A generation that has no step yet stands where it has started from."""
    view = look.view
    if view.state in (RunState.DONE, RunState.STOPPED) and view.step is not None:
        return view.step
    done: int = look.steps[-1]["step"] + 1 if look.steps else 0
    if not view.started or (look.steps and look.steps[-1]["generation"] >= view.started["generation"]):
        return done
    if "step" in view.started:
        return int(view.started["step"])
    if view.started["checkpoint"] is None:
        return 0
    saved = {event["folder"]: event["step"] for event in look.events if event["event"] == "checkpoint"}
    return int(saved.get(view.started["checkpoint"], done))


def _fed(steps: Sequence[Row]) -> list[Row]:
    """Without void steps, which have no loss."""
    return [row for row in steps if row["samples"]]


# what takes a longer look


def _until(look: _Look) -> float:
    """When the controller was last known to live."""
    lease = look.view.lease
    return lease.t if look.state is SeenState.LOST and lease is not None else look.now


def _validation(metrics: Path, config: RunConfig, step: int) -> Validation | None:
    every = config.evaluate.every_steps
    row = last_evaluation(metrics) if every and step >= every else None
    return Validation(step=row["step"], loss=row["loss"], perplexity=row.get("perplexity")) if row else None


def _last_checkpoint(events: Sequence[Event]) -> LastCheckpoint | None:
    for event in reversed(events):
        if event["event"] == "checkpoint":
            return LastCheckpoint(step=event["step"], t=event["t"], folder=event["folder"])
    return None


def _prepared(look: _Look) -> tuple[int, int] | None:
    manifest = read_json(look.run_dir.manifest)
    segments = len(manifest.get("segments", []))
    expected = manifest.get("expected", segments)  # of runs of earlier versions everything was prepared first
    return (segments, expected) if segments < expected and not look.state.over else None


def _last_events(events: Sequence[Event]) -> list[Event]:
    """Of checkpoints one after another only the last: they must not push out what is rare."""
    events = [event for event in events if event["event"] not in _SMALL]
    kinds = [*(event["event"] for event in events), ""]
    told = [event for event, pair in zip(events, pairwise(kinds), strict=True) if pair != ("checkpoint", "checkpoint")]
    return told[-LAST_EVENTS:]


def _pace(look: _Look, summary: RunStatus) -> dict[str, Any]:
    """Of the last steps, unless another world is about to go on."""
    recent = look.steps[-RECENT_STEPS:]
    busy = _sum(recent, "step_s")
    if not busy or look.state is SeenState.PENDING:
        return {}
    step_s = statistics.median(row["step_s"] for row in recent)
    left = (look.config.train.steps or 0) - summary.step
    return {
        "step_s": step_s,
        "tokens_per_s": _sum(recent, "tokens") / busy if all("tokens" in row for row in recent) else None,
        "samples_per_s": _sum(recent, "samples") / busy,
        "mfu": _last(recent, "mfu"),
        "memory_peak_gb": _last(recent, "memory_peak_gb"),
        "data_wait": _sum(recent, "data_wait_s") / busy,
        "eta_s": left * step_s if look.state is SeenState.RUNNING else None,
    }


def _last(rows: Sequence[Row], name: str) -> float | None:
    """Of what is not told of every step."""
    return next((row[name] for row in reversed(rows) if name in row), None)


def _sum(rows: Sequence[Row], name: str) -> float:
    return math.fsum(row[name] for row in rows)


def _seen_by_controller(look: _Look, now: Now | None) -> dict[str, Any]:
    """Its picture of this generation, while there is one to see."""
    if now is None or now.generation != look.view.generation or look.state.over:
        return {}
    slow = find_slow([rank.busy_s for rank in now.ranks])
    ranks = [RankStatus(**asdict(rank), slow=is_slow) for rank, is_slow in zip(now.ranks, slow, strict=True)]
    waiting = now.waiting if look.state is SeenState.PENDING else None
    return {"ranks": ranks, "waiting": waiting, "seen_at": now.t}
