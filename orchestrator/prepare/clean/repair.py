"""Steps that repair a text: its Unicode, its control characters, its whitespace. Each returns the repaired text."""

import re
import unicodedata

from orchestrator.prepare.clean.sample import Count, Unfit

REPLACEMENT = "\ufffd"
_MOST_ROUNDS = 3  # text that was misread more often than that is given up
_SEQUENCES = 2  # one alone may be meant as it stands
# Characters of Windows-1252 to the Latin-1 ones of the same byte; five bytes it leaves open are read as Latin-1.
_BYTES_OF_1252 = {
    ord(bytes([byte]).decode("cp1252")): byte
    for byte in range(0x80, 0xA0)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_SPECIALS = "".join(map(chr, _BYTES_OF_1252))
_MISREAD = re.compile(rf"[\x00-\x7f]*+[\xc2-\xf4][\x80-\xbf{_SPECIALS}]")  # the first sequence, if all are
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]+")
_LINE_END = re.compile("\r\n?")


def fix_unicode(text: str, max_replaced: Count | None = None) -> str | Unfit:
    """Normal form C; UTF-8 that was once read as Windows-1252 or Latin-1 is read again as UTF-8, where that is certain.

    Certain is: of the whole text, every character beyond ASCII is part of such a sequence, and there are two or more of
    them. With `max_replaced`, a text with more replacement characters goes."""
    replaced = text.count(REPLACEMENT)
    if max_replaced is not None and replaced > max_replaced:
        return Unfit(f"{replaced} replacement characters, more than {max_replaced}")
    for _ in range(_MOST_ROUNDS):
        again = _read_again(text)
        if again == text:
            break
        text = again
    return unicodedata.normalize("NFC", text)


def control_characters(text: str) -> str:
    """Without control characters and byte order marks; tabs, newlines and carriage returns stay."""
    return _CONTROLS.sub("", text)


def whitespace(text: str, max_blank_lines: Count = 1, runs: bool = True) -> str:
    """Newlines as \\n, no whitespace at the ends of lines and of the text, at most so many blank lines together; with
    `runs`, one space for several inside a line. What a line begins with stays."""
    kept: list[str] = []
    blank = 0
    for line in _LINE_END.sub("\n", text).split("\n"):
        line = line.rstrip()
        blank = 0 if line else blank + 1
        if blank <= max_blank_lines:
            kept.append(_fold_runs(line) if runs else line)
    return "\n".join(kept).strip("\n")


def _read_again(text: str) -> str:
    """Its characters as bytes, and these as UTF-8; the text itself where it is not certain."""
    if text.isascii() or not _MISREAD.match(text):
        return text
    try:
        again = text.translate(_BYTES_OF_1252).encode("latin-1").decode()
    except UnicodeError:
        return text
    sequences = sum(not character.isascii() for character in again)
    return again if sequences >= _SEQUENCES else text


def _fold_runs(line: str) -> str:
    words = line.lstrip()
    return line[: len(line) - len(words)] + " ".join(words.split())
