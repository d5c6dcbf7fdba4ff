"""What ranks tell for the journal."""

from orchestrator.control.notes import describe_note
from orchestrator.core.news import BegunNews


def test_a_beginning_says_of_which_world_it_is_and_when_it_was() -> None:
    event, fields = describe_note(BegunNews(generation=3, step=7, t=1_000.00049, seconds={"join": 0.12345}))
    assert event == "training"
    assert fields == {"t": 1_000.0, "world": 3, "step": 7, "seconds": {"join": 0.1235}}
