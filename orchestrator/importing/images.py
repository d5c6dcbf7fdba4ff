"""Inputs that are image files: one sample a file, its bytes copied and not decoded. In folders by class a sample also
has the member .cls, the number of its class among the sorted names."""

from collections.abc import Generator, Sequence
from pathlib import Path, PurePosixPath

from orchestrator.core.errors import DataError
from orchestrator.importing.sample import Input, Piece, Reject, Sample, Unreadable, find_key_fault
from orchestrator.importing.wish import Wish

_SUFFIXES = {"jpeg": "jpg", "tiff": "tif"}  # of two spellings, one
_HEADERS_BYTES = 3 * 512  # of the image and of its class, and the class itself


def find_classes(sources: Sequence[Input]) -> list[str] | None:
    """Sorted names of the class folders; None when the images lie in no folders."""
    depths = {len(PurePosixPath(source.below).parts): source for source in sources}
    if depths.keys() == {1}:
        return None
    for depth, source in depths.items():
        if depth != 2:
            raise DataError(
                "class folders lie beside images without a class"
                if depth == 1
                else "lies too deep: folders are classes",
                where=source.path,
                remedy="name the folder whose subfolders are the classes, or one that holds nothing but images",
            )
    return sorted({PurePosixPath(source.below).parts[0] for source in sources})


def cut_image(source: Input, number: int, wish: Wish) -> list[Piece]:  # noqa: ARG001
    return [Piece(source, number, _HEADERS_BYTES + (source.size_bytes + 511 & -512))]


def read_image(piece: Piece, wish: Wish, scratch: Path) -> Generator[Sample | Reject, None, None]:  # noqa: ARG001
    path = Path(piece.source.path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}", where=str(path), remedy="make it readable") from error
    below = PurePosixPath(piece.source.below)
    key = str(below.with_suffix("")).replace(".", "-")  # a key ends at its first dot
    fault = find_key_fault(key)
    if not data:
        yield Reject(0, "file is empty", "put the image back, or remove the file", key)
    elif fault:
        yield Reject(0, fault, "rename the file", key)
    else:
        suffix = below.suffix[1:].lower()
        members: list[tuple[str, bytes | memoryview]] = [(_SUFFIXES.get(suffix, suffix), data)]
        if piece.label is not None:
            members.append(("cls", str(piece.label).encode()))
        yield Sample(0, key, members)


def locate_image(piece: Piece, at: int) -> str:  # noqa: ARG001
    return piece.source.path
