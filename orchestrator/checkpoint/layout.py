"""The durable format, version 1: names of files, what they say, and the checksums that tie them together.

    checkpoints/step-NNNNNNNN-gNNNN/
      rank-NNNNN.safetensors   the fragments one rank held; a tensor's key is name/state/start
      rank-NNNNN.json          size and checksum of that file, and where each fragment lies in it
      manifest.json            what the checkpoint is of, and the checksum of every rank's record
      COMMIT                   checksum of manifest.json; the only thing that makes a folder a checkpoint

Written by writer.py, read by reader.py, thrown away by keep.py."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import xxhash

FORMAT = 1
MANIFEST = "manifest.json"
COMMIT = "COMMIT"
CHUNK_BYTES = 8 * 2**20

DTYPES = {  # torch's name and the one safetensors has for it
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
ELEMENT_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
MayUse = Callable[[int, int], bool]  # whether the state of a generation at a step is of any use
_FOLDER = re.compile(r"step-(\d{8,})-g(\d{4,})")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFacts:
    """What a checkpoint says about its run, beside the state itself. The same on every rank."""

    zero_stage: int
    config_hash: str  # of the identity keys
    chain: tuple[str, ...]  # ids of the data segments the run uses
    skips: tuple[dict[str, Any], ...] = ()  # holes and voided batches until this step
    wandb_run_id: str | None = None
    validation_loss: float | None = None  # of this very step
    validations: tuple[dict[str, float], ...] = ()  # all until this step: `step`, and metrics by name
    recent_losses: tuple[float, ...] = ()  # of the last steps, by which the next ones are judged

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "CheckpointFacts":
        """Other fields are passed over; those that earlier versions did not write are as if nothing had been there."""
        known = {name: fields[name] for name in cls.__slots__ if name in fields}
        lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        return cls(**(known | lists))


class Placed(NamedTuple):
    """Where a fragment lies: `numel` elements from byte `begin` of a rank's file on."""

    name: str
    state: str
    start: int
    numel: int
    dtype: str
    begin: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RankRecord:
    """What rank-NNNNN.json says."""

    file: str
    size_bytes: int
    xxh3_128: str = ""  # of the whole file: earlier versions wrote it
    chunks: tuple[str, ...] = ()  # xxh3-128 of every CHUNK_BYTES of the file, so that a range can be checked alone
    scalars: dict[str, dict[str, float]] = field(default_factory=dict)
    fragments: tuple[Placed, ...] = ()

    def to_bytes(self) -> bytes:
        fields = {"file": self.file, "size_bytes": self.size_bytes, "xxh3_128": self.xxh3_128, "chunks": self.chunks}
        fragments = [placed._asdict() for placed in self.fragments]
        return to_bytes({"format": FORMAT, **fields, "scalars": self.scalars, "fragments": fragments})

    @classmethod
    def from_bytes(cls, data: bytes) -> "RankRecord":
        fields: dict[str, Any] = json.loads(data)
        del fields["format"]
        fragments = tuple(Placed(**placed) for placed in fields["fragments"])
        return cls(**fields | {"chunks": tuple(fields.get("chunks", ())), "fragments": fragments})


def checkpoint_name(step: int, generation: int) -> str:
    return f"step-{step:08d}-g{generation:04d}"


def use_any(generation: int, step: int) -> bool:  # noqa: ARG001
    return True


def parse_name(name: str) -> tuple[int, int] | None:
    """Step and generation of a checkpoint's folder; None when it is something else."""
    match = _FOLDER.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def data_name(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def record_name(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def tensor_key(name: str, state: str, start: int) -> str:
    return f"{name}/{state}/{start}"


def dtype_name(dtype: object) -> str:
    """The name of a torch dtype."""
    return str(dtype).removeprefix("torch.")


def to_bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def commit_bytes(manifest: bytes) -> bytes:
    """COMMIT as it must be, byte by byte, so that no changed byte of it goes unseen."""
    return to_bytes({"format": FORMAT, "manifest_xxh3_128": digest(manifest)})
