"""The kinds of input: by which names they are known, how one is cut into pieces, read, and pointed at in messages."""

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.importing.archives import cut_archive, locate_member, read_archive
from orchestrator.importing.columns import cut_rows, locate_row, read_rows
from orchestrator.importing.images import cut_image, locate_image, read_image
from orchestrator.importing.lines import cut_lines, locate_line, read_lines
from orchestrator.importing.sample import Input, Piece, Reject, Sample, WholeTar
from orchestrator.importing.wish import KindName, Wish

Item = Sample | Reject | WholeTar
_COMPRESSIONS = "gz|bz2|xz|zst"


@dataclass(frozen=True, slots=True)
class Kind:
    """`read` is given a folder for temporary files; `locate` says in words where in a piece something stands."""

    names: re.Pattern[str]
    cut: Callable[[Input, int, Wish], list[Piece]]
    read: Callable[[Piece, Wish, Path], Generator[Item, None, None]]
    locate: Callable[[Piece, int], str]


def _names(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\.({pattern})$", re.IGNORECASE)


KINDS: dict[KindName, Kind] = {
    "tar": Kind(_names(rf"tar(\.({_COMPRESSIONS}))?|tgz|tbz2?|txz|tzst"), cut_archive, read_archive, locate_member),
    "jsonl": Kind(_names(rf"(jsonl|ndjson)(\.({_COMPRESSIONS}))?"), cut_lines, read_lines, locate_line),
    "parquet": Kind(_names("parquet|pq"), cut_rows, read_rows, locate_row),
    "images": Kind(_names("jpe?g|png|webp|gif|bmp|tiff?"), cut_image, read_image, locate_image),
}


def find_kind(name: str) -> KindName | None:
    """The kind that a file's name says."""
    return next((kind for kind, known in KINDS.items() if known.names.search(name)), None)
