"""News of ranks that are events of the run: what they are called in the journal, and what is told of them."""

from typing import Any

from orchestrator.core.news import BegunNews, CheckpointNews, TroubleNews, VoidedNews

Note = CheckpointNews | TroubleNews | BegunNews | VoidedNews


def describe_note(note: Note) -> tuple[str, dict[str, Any]]:
    """Event and fields."""
    match note:
        case BegunNews():
            seconds = {part: round(s, 4) for part, s in note.seconds.items()}
            began = {
                "t": round(note.t, 3),
                "world": note.generation,
            }  # it may be written down late, by another controller
            return "training", {**began, "step": note.step, "seconds": seconds}
        case VoidedNews():
            return "voided", {"step": note.step, "reason": note.reason}
        case TroubleNews():
            fed = {str(one.rank): list(one.samples) for one in note.fed}
            return note.kind, {"step": note.step, "reason": note.describe(), "fed": fed}
        case CheckpointNews():
            return "checkpoint_failed" if note.problem else "checkpoint", _describe_checkpoint(note)


def _describe_checkpoint(note: CheckpointNews) -> dict[str, Any]:
    return {
        "step": note.step,
        "folder": note.folder,
        "seconds": round(note.seconds, 3),
        "pause_s": round(note.pause_s, 3),
        "size_bytes": note.size_bytes,
        **({"reason": note.problem} if note.problem else {}),
    }
