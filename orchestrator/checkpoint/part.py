"""One rank's part of a snapshot: the bytes of a safetensors file, and what must be known to read them.

Parts lie in slots (slot.py) and, the same bytes, on disk (writer.py). Comes after fragments.py."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from orchestrator.checkpoint import layout
from orchestrator.checkpoint.layout import CheckpointFacts, Placed

ALIGNED_TO = 64  # bytes, where the first value begins: copying to places across cache lines takes half as long again


class Shape(NamedTuple):
    """A fragment as it is laid out: `dtype` is torch's name."""

    name: str
    state: str
    start: int
    numel: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """How a part's bytes are laid out: a safetensors header, then the values."""

    header: bytes
    fragments: tuple[Placed, ...]  # `begin` counts from the first byte of the header; in the order of the shapes
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What is known of a part beside its bytes. Tensors, engine and facts are the same on every rank."""

    step: int
    generation: int
    rank: int
    world_size: int
    size_bytes: int
    fragments: tuple[Placed, ...]
    scalars: dict[str, dict[str, float]]  # by parameter held here
    tensors: dict[str, dict[str, Any]]  # fragments.TensorInfo as fields
    engine: dict[str, float]
    facts: CheckpointFacts

    @property
    def place(self) -> "PartPlace":
        return PartPlace(self.generation, self.step, self.world_size, self.rank)

    def to_bytes(self, lasting: str | None = None) -> bytes:
        """`lasting`: what lasting_text said of an earlier part with the same tensors and fragments."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("fragments", "tensors")}
        text = json.dumps({"format": layout.FORMAT, **fields, "facts": asdict(self.facts)}, ensure_ascii=False)
        return f"{text[:-1]}, {lasting or self.lasting_text()}}}".encode()

    def lasting_text(self) -> str:
        """What snapshots of an engine have in common."""
        lasting = {"tensors": self.tensors, "fragments": [list(placed) for placed in self.fragments]}
        return json.dumps(lasting, ensure_ascii=False)[1:-1]

    @classmethod
    def from_bytes(cls, data: bytes) -> "Part":
        fields: dict[str, Any] = json.loads(data)
        del fields["format"]
        fields["fragments"] = tuple(Placed(*placed) for placed in fields["fragments"])
        fields["facts"] = CheckpointFacts.from_json(fields["facts"])
        return cls(**fields)


class PartPlace(NamedTuple):
    """Which part of which snapshot; sorts by age."""

    generation: int
    step: int
    world_size: int
    rank: int


def lay_out(shapes: Iterable[Shape]) -> Sheet:
    """Values follow in the order of the shapes, which must have the widest elements first, so that all are aligned."""
    fields: dict[str, Any] = {"__metadata__": {"format": str(layout.FORMAT)}}
    ends, end = [], 0
    shapes = list(shapes)
    for shape in shapes:
        begin, end = end, end + shape.numel * layout.ELEMENT_BYTES[shape.dtype]
        fields[layout.tensor_key(shape.name, shape.state, shape.start)] = {
            "dtype": layout.DTYPES[shape.dtype],
            "shape": [shape.numel],
            "data_offsets": [begin, end],
        }
        ends.append((begin, end))
    data = json.dumps(fields, separators=(",", ":")).encode()
    data += b" " * (-(8 + len(data)) % ALIGNED_TO)
    header = len(data).to_bytes(8, "little") + data
    placed = tuple(Placed(*shape, begin=len(header) + begin) for shape, (begin, _) in zip(shapes, ends, strict=True))
    return Sheet(header, placed, len(header) + end)
