"""The ids of every sample fed (data.ledger: keys): Arrow parts in ledger-keys/, one row a span.

News is first appended to pending.jsonl, on disk before `add` returns. When enough is pending it becomes the next part,
published as a whole, and a new pending file begins; the head of a pending file says which part it will become, so one
left over from a crash between the two is recognised."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.core.errors import DataError
from orchestrator.core.news import KeysNews
from orchestrator.core.words import Span
from orchestrator.storage.lines import LineFile, read_lines
from orchestrator.storage.publish import publish_bytes

KEYS_FOLDER = "ledger-keys"
FORMAT = 1
SPANS_PER_PART = 65_536
_COLUMNS = ("step", "generation", "slot", "ordinal", "place", "first", "count")

Telling = tuple[int, int, int]  # generation, step and first slot with spans: which rank told what


class KeyParts:
    """Writes ledger-keys/. Makes nothing until the first keys arrive."""

    def __init__(self, run_dir: Path, spans_per_part: int = SPANS_PER_PART) -> None:
        self._folder = run_dir / KEYS_FOLDER
        self._spans_per_part = spans_per_part
        self._pending: LineFile | None = None
        self._rows: list[dict[str, Any]] = []
        self._told: set[Telling] = set()
        if self._folder.exists():
            self._resume()

    def add(self, news: Iterable[KeysNews]) -> None:
        """On return the keys are on disk, once, whoever dies."""
        rows = [row for row in map(_pending_row, news) if row["spans"]]
        fresh = {_telling(row): row for row in rows if _telling(row) not in self._told}
        if not fresh:
            return
        if self._pending is None:
            self._open_pending(len(_parts(self._folder)))
        assert self._pending is not None
        self._pending.append(fresh.values(), durable=True)
        self._rows += fresh.values()
        self._told |= fresh.keys()
        if sum(len(row["spans"]) for row in self._rows) >= self._spans_per_part:
            self.flush()

    def flush(self) -> None:
        """Turn what is pending into a part."""
        if self._pending is None or not self._rows:
            return
        number = len(_parts(self._folder))
        publish_bytes(self._folder / _part_name(number), _part_bytes(self._rows))
        self._told = {_telling(row) for row in self._rows}  # only the newest can still be told again
        self._pending.close()
        self._open_pending(number + 1)

    def close(self) -> None:
        """Leave whole parts behind."""
        self.flush()
        if self._pending is not None:
            self._pending.close()

    def _open_pending(self, number: int) -> None:
        path = self._folder / "pending.jsonl"
        path.unlink(missing_ok=True)
        self._pending = LineFile(path, head={"format": FORMAT, "part": number})
        self._rows = []

    def _resume(self) -> None:
        parts = _parts(self._folder)
        if parts:
            table = _read_part(parts[-1])
            self._told = set(zip(table["generation"], table["step"], table["slot"], strict=True))
        left = list(_read_pending(self._folder, len(parts)))
        if left:
            self._pending = LineFile(self._folder / "pending.jsonl")
            self._rows = left
            self._told |= {_telling(row) for row in left}


def read_keys(run_dir: Path, steps: Iterable[int]) -> dict[int, list[list[Span]]]:
    """For each step that has keys, the spans of each slot of the global batch, in batch order."""
    wanted = set(steps)
    if not wanted:
        return {}
    found: dict[int, dict[int, dict[int, list[Span]]]] = {}  # step, generation, slot
    folder = run_dir / KEYS_FOLDER
    parts = _parts(folder)
    for part in parts:
        _collect(_columns_for(part, wanted), wanted, found)
    _collect(_columns(_read_pending(folder, len(parts))), wanted, found)
    return {step: _by_slot(found[step][max(found[step])]) for step in sorted(found)}


def _by_slot(slots: dict[int, list[Span]]) -> list[list[Span]]:
    return [slots.get(slot, []) for slot in range(max(slots) + 1)]


def _collect(table: dict[str, list[int]], wanted: set[int], found: dict[int, dict[int, dict[int, list[Span]]]]) -> None:
    for step, generation, slot, *span in zip(*(table[name] for name in _COLUMNS), strict=True):
        if step in wanted:
            found.setdefault(step, {}).setdefault(generation, {}).setdefault(slot, []).append(Span(*span))


def _telling(row: dict[str, Any]) -> Telling:
    return row["generation"], row["step"], row["spans"][0][0]


def _pending_row(news: KeysNews) -> dict[str, Any]:
    spans = [[slot, *span] for slot, held in zip(news.slots, news.spans, strict=True) for span in held]
    return {"step": news.step, "generation": news.generation, "spans": spans}


def _read_pending(folder: Path, next_part: int) -> Iterator[dict[str, Any]]:
    """Rows that are in no part yet. A pending file for another part was published before its writer died."""
    lines = read_lines(folder / "pending.jsonl")
    if next(lines, {}).get("part") == next_part:
        yield from lines


def _columns(rows: Iterable[dict[str, Any]]) -> dict[str, list[int]]:
    spans = [(row["step"], row["generation"], *span) for row in rows for span in row["spans"]]
    return {name: [span[i] for span in spans] for i, name in enumerate(_COLUMNS)}


def _part_name(number: int) -> str:
    return f"part-{number:06d}.arrow"


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.arrow"))


def _part_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow as pa  # here, since the scribe must start fast and most runs keep no keys

    steps = [row["step"] for row in rows]
    about = {"format": str(FORMAT), "first_step": str(min(steps)), "last_step": str(max(steps))}
    table = pa.table(_columns(rows), schema=pa.schema([(name, pa.int64()) for name in _COLUMNS], metadata=about))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _columns_for(path: Path, wanted: set[int]) -> dict[str, list[int]]:
    about = _about(path)
    if int(about["last_step"]) < min(wanted) or max(wanted) < int(about["first_step"]):
        return {name: [] for name in _COLUMNS}
    return _read_part(path)


def _about(path: Path) -> dict[str, str]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        about = {key.decode(): value.decode() for key, value in (pa.ipc.open_file(file).schema.metadata or {}).items()}
    if about.get("format") != str(FORMAT):
        raise DataError(f"format is {about.get('format')!r}, this Longhaul reads {FORMAT}", where=str(path))
    return about


def _read_part(path: Path) -> dict[str, list[int]]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        return {name: table.column(name).to_pylist() for name in _COLUMNS}
