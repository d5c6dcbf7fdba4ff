"""`longhaul stop`: ask a run to stop at a checkpoint, wait until it has, and say how to go on."""

from contextlib import nullcontext

from rich.text import Text

from launch.place import Place
from launch.screen import Screen
from launch.screens.status import draw_end, draw_line
from launch.status import print_json
from orchestrator.core.words import ExitCode
from orchestrator.tracking.status import RunStatus, SeenState


def stop(place: Place, name: str, *, at_once: bool, wait: bool, as_json: bool, screen: Screen) -> ExitCode:
    """DONE when it has stopped, or was done before it heard; FAILED when it came to another end."""
    place.ask_to_stop(name, at_once=at_once)
    if not as_json:
        screen.say(f"asked {name} to stop {'at once' if at_once else 'after a checkpoint'}")
    if not wait:
        if as_json:
            print_json(place.status(name), screen)
        return ExitCode.DONE
    try:
        last = _await_end(place, name, screen, quiet=as_json)
    except KeyboardInterrupt:
        if not as_json:
            screen.say("no longer waiting; the run will stop all the same")
        return ExitCode.STOPPED
    if as_json:
        print_json(last, screen)
    else:
        screen.console.print(draw_end(last, name, place.again), crop=False)
    return ExitCode.DONE if last.state in (SeenState.STOPPED, SeenState.DONE) else ExitCode.FAILED


def _await_end(place: Place, name: str, screen: Screen, *, quiet: bool) -> RunStatus:
    with nullcontext() if quiet else screen.console.status("") as shown:
        for status in place.watch(name):
            if shown is not None:
                shown.update(Text(draw_line(status)))
    return status
