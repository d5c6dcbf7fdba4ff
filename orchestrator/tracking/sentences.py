"""Events of the journal as sentences for people."""

from datetime import datetime

from orchestrator.tracking.journal import Event

LONGEST_REASON = 200  # characters; the logs have all of it


def describe_event(event: Event) -> str:
    """One line. Kinds that this version does not know are told by their name and reason."""
    match event["event"]:
        case "claimed":
            return f"a controller on {event['host']} takes charge of generation {event['generation']}"
        case "warming":
            return f"ranks warm up on {counted(len(event['nodes']), 'node')}"
        case "started":
            return f"started on {counted(event['world_size'], 'rank')} from {_start_of(event)}"
        case "training":
            return f"trains from step {event['step']:,} on, after {sum(event['seconds'].values()):.2g} s"
        case "freed":
            killed, places = len(event["killed"]), "".join(f"; {one}" for one in event.get("evidence", []))
            return "all ranks are out of the broken world" + (f"; {killed} had to be ended" if killed else "") + places
        case "ranks_killed":
            processes = ", ".join(map(str, event["pids"]))
            return _with_reason(f"ranks on {event['host']} are ended (processes {processes})", event)
        case "leaving":
            return f"ranks leave this world after their step: {first_line(event['reason'])}"
        case "node_joined" | "node_lost" | "node_released" as kind:
            what = {"node_joined": "has joined", "node_lost": "is lost", "node_released": "has been given back"}[kind]
            return _with_reason(f"node {event['host']} {what}", event)
        case "node_avoided":
            until = f"{datetime.fromtimestamp(event['until']):%H:%M}"
            return f"node {event['host']} is avoided until {until}: {first_line('; '.join(event['evidence']))}"
        case "voided":
            return f"the batch of step {event['step']:,} is left out of the run: {first_line(event['reason'])}"
        case "adopted":
            return "a new controller has taken over the running ranks"
        case "checkpoint":
            paused = f", of which training waited {event['pause_s']:.2g}" if event.get("pause_s") else ""
            return f"checkpoint of step {event['step']:,}, written in {event['seconds']:.3g} s{paused}"
        case "preparing":
            return f"the other segments are being prepared; {event['segments']} of {event['expected']} are there"
        case "prepared":
            return f"all {counted(event['segments'], 'segment')} are prepared"
        case "imported":
            return f"{event['step']:,} steps were done before, in {event['source']}"
        case "stopping":
            return "ranks stop after a checkpoint"
        case "stopped" if event.get("reason"):
            return first_line(event["reason"])  # which says so
        case kind:
            return _with_reason(kind.replace("_", " "), event)


def _start_of(started: Event) -> str:
    if started.get("snapshot") is not None:
        return f"the snapshot of step {started['snapshot']:,}"
    return started["checkpoint"] or "step 0"


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _with_reason(what: str, event: Event) -> str:
    if event.get("step") is not None:
        what += f" at step {event['step']:,}"
    reason = first_line(event.get("reason", ""))
    return f"{what}: {reason}" if reason else what


def first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."
