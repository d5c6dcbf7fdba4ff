"""Whether all nodes see `root` alike: each reads a token that is left there and writes an answer that is read here.

That a folder of this name exists everywhere does not tell: each node may have one of its own."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launch.checks.check import Check, name_nodes


@dataclass(frozen=True, slots=True)
class Token:
    path: Path
    text: str

    def answer_path(self, node: str) -> Path:
        """`node` without slashes, for example its id."""
        return self.path.with_name(f"{self.path.name}-{node}")


@contextmanager
def left_token(folder: Path) -> Iterator[Token]:
    """Raises OSError when it cannot be written. Token and answers are removed afterwards."""
    text = uuid.uuid4().hex
    token = Token(folder / f".doctor-{text}", text)
    token.path.write_text(text)
    try:
        yield token
    finally:
        for leftover in folder.glob(f"{token.path.name}*"):
            leftover.unlink()


def answer_token(token: Token, node: str) -> str:
    """On a node: empty when the token was read and answered, otherwise why not."""
    try:
        if token.path.read_text() != token.text:
            return "it reads something else there"
    except OSError as error:
        return f"it does not see what others write there: {error.strerror}"
    try:
        token.answer_path(node).write_text(token.text)
    except OSError as error:
        return f"it cannot write there: {error.strerror}"
    return ""


def check_shared_root(root: Path, reasons: Mapping[str, str]) -> list[Check]:
    """`reasons`: by node, empty when it reads and writes what others do."""
    odd: dict[str, list[str]] = {}
    for node, why in reasons.items():
        if why:
            odd.setdefault(why, []).append(node)
    if not odd:
        return [Check("ok", "same root", f"all nodes read and write the same files in {root}")]
    remedy = "mount one file system at this path on all nodes, writable for the user of Ray, or give another root"
    return [
        Check("problem", "same root", f"{root} on {name_nodes(nodes)}: {why}", remedy) for why, nodes in odd.items()
    ]
