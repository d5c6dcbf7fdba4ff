"""What a new controller knows from the journal: where the run stood, what failed, which states still count. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.control.blame import Failure, Raised
from orchestrator.control.start import Bound
from orchestrator.tracking.journal import Event


@dataclass(slots=True)
class Recalled:
    """`world`: the node actors of the world that was begun last, `generation`: its own; `is_broken`: by a fault that is
    among the failures. `longest_start_s`: of a world, until its first step; `starting_since`: it has not come to it."""

    generation: int = 0
    world: tuple[str, ...] = ()
    step: int = 0
    is_broken: bool = False
    starting_since: float | None = None
    longest_start_s: float | None = None
    failures: list[Failure] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)


def recall(events: Iterable[Event], since_epoch_s: float) -> Recalled:
    """`since_epoch_s`: what to take from the times of events to have them on the controller's clock."""
    recalled, starts, warm = Recalled(), dict[int, float](), set[str]()
    for event in events:
        match event["event"]:
            case "started":
                recalled.generation, recalled.world = event["generation"], tuple(event["node_actors"])
                recalled.step, recalled.is_broken = event.get("step", 0), False
                starts[recalled.generation] = event["t"]
                recalled.starting_since = event["t"] - since_epoch_s
                warm.update(recalled.world)
            case "training":
                world = event.get("world", recalled.generation)  # the next one may have been begun by now
                recalled.longest_start_s = max(event["t"] - starts[world], recalled.longest_start_s or 0.0)
                if world == recalled.generation:
                    recalled.starting_since = None
            case "node_joined":
                warm.add(event["node"])
            case "node_lost" if event["node"] not in warm:  # the loss of others is a fault, or cost nothing
                recalled.failures.append(_recall_failure({**event, "nodes": [event["host"]]}, since_epoch_s))
            case "fault":
                recalled.failures.append(_recall_failure(event, since_epoch_s))
                recalled.step, recalled.is_broken = event["step"], True
            case "spare_died" | "not_repeated":
                recalled.failures.append(_recall_failure(event, since_epoch_s))
        if (bound := bound_of(event)) is not None:
            recalled.bounds.append(bound)
    return recalled


def bound_of(event: Event) -> Bound | None:
    """Where a world began bounds the generations before it; where it was left to go back to bounds its own."""
    if event["event"] == "started" and "step" in event:
        return Bound(event["generation"] - 1, event["step"])
    if event["event"] in ("left", "fault") and event.get("back_to") is not None:
        return Bound(event["generation"], event["back_to"])
    return None


def _recall_failure(event: Event, since_epoch_s: float) -> Failure:
    return Failure(
        t=event["t"] - since_epoch_s,
        hosts=tuple(event.get("nodes", ())),
        evidence=event["reason"].partition("\n")[0],
        raised=Raised(*event["raised"]) if event.get("raised") else None,
        spends_budget=event["event"] not in ("not_repeated", "node_lost"),  # whether a world trained is not known here
    )
