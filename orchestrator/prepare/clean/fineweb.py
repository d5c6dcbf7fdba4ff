"""FineWeb's rules of quality (Penedo and others 2024), for texts whose lines are no sentences, or come again."""

from orchestrator.prepare.clean.characters import SENTENCE_ENDS
from orchestrator.prepare.clean.sample import Count, Ratio, Share, Unfit, above, below
from orchestrator.prepare.clean.text import Text

_ENDS = tuple(SENTENCE_ENDS)


def fineweb_quality(
    text: Text,
    min_lines_ended: Share = 0.12,
    max_short_lines: Share = 0.67,
    short_line: Count = 30,
    max_repeated: Share = 0.01,
    max_lines_a_word: Ratio = 0.3,
) -> Unfit | None:
    """Lines that end a sentence, lines of at most `short_line` characters, characters in repeated lines, line breaks a
    word. Lines of whitespace do not count."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return Unfit("it has no lines")
    ended = sum(line.endswith(_ENDS) for line in lines) / len(lines)
    short = sum(len(line) <= short_line for line in lines) / len(lines)
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    breaks = text.count("\n")
    return (
        below(ended, min_lines_ended, "of its lines end a sentence")
        or above(short, max_short_lines, f"of its lines have {short_line} characters or fewer")
        or above(repeated / (len(text) - breaks), max_repeated, "of its characters are in repeated lines")
        or above(breaks / (len(text.words) or 1), max_lines_a_word, "line breaks a word")
    )
