"""Section data: where samples come from, in which order, and what happens to them on the way to a batch."""

from typing import Any, Literal

from pydantic import model_validator

from orchestrator.config.marks import CountOrAuto, Section, free, identity
from orchestrator.config.reading import (
    CacheSection,
    Fields,
    FieldSection,
    StoreSection,
    TransformSection,
    WorkersSection,
)

ROW, ROW_MEMBER = "row", "json"  # the field that a table is read as, and the member that holds it


class Source(Section):
    """One place with tar shards; several are mixed by weight."""

    # Where a copy lies is free: what it holds is told by the manifest's chain, and a resume compares that.
    path: str = free("folder, glob or store URL of the tar shards; a copy elsewhere is the same data", min_length=1)
    name: str | None = identity("name in shard names; the last part of the path when absent", None, pattern=r"^[^/]+$")
    weight: float = identity("share of the batch, relative to the other sources", 1.0, gt=0)
    demo: Literal["text", "digits", "iris", "breast_cancer", "diabetes"] | None = free(
        "make the shards here if the path is missing: text from this Python installation, the others from scikit-learn",
        None,
    )

    @property
    def label(self) -> str:
        return self.name or self.path.rstrip("/").split("/")[-1]


class SplitSection(Section):
    """Shares of the samples kept from training; chosen by hash of (source, shard, key), or of a group."""

    validation: float = identity("share for validation", 0.0, ge=0, lt=1)
    test: float = identity("share for test", 0.0, ge=0, lt=1)
    folds: int | None = identity("cut the rest into so many parts, of which one is for validation", None, ge=2)
    fold: int = identity("folds: which part is for validation, from 0", 0, ge=0)
    by: str | None = identity(
        "field of the json member; samples with the same value share a split. None: each is by itself",
        None,
        min_length=1,
    )

    @model_validator(mode="after")
    def leave_something_to_train_on(self) -> "SplitSection":
        if self.folds is not None and self.validation:
            raise ValueError(
                f"data.split.folds takes the place of validation, which is {self.validation}: leave that out"
            )
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"data.split.fold {self.fold} must be below data.split.folds, which is {self.folds}")
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave nothing to train on")
        return self


class CategorySection(Section):
    """A column of words: each value becomes a column of its own, 1 where a row has it and 0 elsewhere."""

    name: str = identity("the column", min_length=1)
    values: list[str] = identity("all values that it may have", min_length=1)


class TableSection(Section):
    """A sample is a row of a table: the object in its json member. In place of data.fields."""

    columns: list[str | CategorySection] = identity(
        "what is learned from: columns of numbers, or of words", min_length=1
    )
    target: str = identity("the column that is learned: a number, or a class as number from 0 or as one of labels")
    labels: list[str] | None = identity("the target's classes, where they are words; the first is class 0", None)
    scale: Literal["standard", "none"] = identity(
        "standard: columns of numbers less their mean, over their deviation, of the first segment's training rows",
        "standard",
    )


class AugmentSection(Section):
    """One change of pictures in training, on the device that trains; other draws for each sample and epoch."""

    name: str = identity("a change of docs/augment.md", min_length=1)
    args: dict[str, Any] = identity("its arguments", {})
    p: float = identity("share of the pictures that it happens to", 1.0, gt=0, le=1)


class MixupSection(Section):
    """Pictures and labels mixed in pairs of the same global batch."""

    alpha: float = identity("shares are drawn from Beta(alpha, alpha)", 0.2, gt=0)


class Phase(Section):
    """From a stated step on, other arithmetic."""

    from_step: int = identity("first step of this phase", ge=0)
    global_batch: int | None = identity("samples a step from here on", None, ge=1)
    seq_len: int | None = identity("sequence length from here on; begins a new unit", None, ge=1)
    weights: dict[str, float] | None = identity("source weights from here on, by source name", None)


class DataSection(Section):
    train: list[Source] = identity("the sources to train on", min_length=1)
    split: SplitSection = identity("shares kept for validation and test", SplitSection())
    work: str = free("shared folder for index, verdicts and tokens; may be deleted and made again", "data/.longhaul")
    segment_shards: int = identity(
        "most shards in the first segment, the unit of preparing; later ones may have up to sixteen times as many",
        64,
        ge=1,
    )
    segment_bytes: int = identity(
        "most bytes in the first segment (one shard always fits); later ones may have up to sixteen times as many",
        8 * 2**30,
        ge=1,
    )
    fields: Fields | None = identity(
        "what is read of every sample, by name; none: tokens of prepare.tokens, packed", None
    )
    transforms: list[TransformSection] = identity("what happens to a sample between decoding and batching", [])
    table: TableSection | None = identity("columns of a table, for tabular tasks", None)
    augment: list[AugmentSection] = identity("what happens to pictures on the training device, in order", [])
    mixup: MixupSection | None = identity("mix pictures and labels in pairs; none: do not", None)
    window_samples: int = identity("samples (tokens / seq_len when packing) shuffled together", 262_144, ge=1)
    window_bytes: int = identity("most bytes shuffled together, when not packing", 2 * 2**30, ge=1)
    run_samples: CountOrAuto = identity(
        "neighbours in a shard that stay together when shuffled; auto: 1, or 2 MiB of them in a store", "auto"
    )
    lanes: CountOrAuto = identity("equal cuts of a unit that neighbouring ranks walk apart", "auto")
    shuffle: bool = identity("false reads in shard order", True)
    ledger: Literal["digest", "keys"] = free(
        "digest: two sums a step; keys: also the ids of every sample fed", "digest"
    )
    on_bad: Literal["fail", "skip"] = identity(
        "what to do with broken shards and samples: stop, or leave out and count", "fail"
    )
    phases: list[Phase] = identity("changes of batch, length or mixture at stated steps", [])
    prefetch_bytes: int = free("memory each rank may use for batches read ahead", 256 * 2**20, ge=1)
    max_holes: int = free("a run in which more samples than this do not decode ends", 100, ge=0)
    workers: WorkersSection = free("who reads and decodes", WorkersSection())
    store: StoreSection = free("object stores", StoreSection())
    cache: CacheSection = free("what is kept of object stores on each node", CacheSection())

    @property
    def read_fields(self) -> dict[str, FieldSection]:
        """What is read of every sample that is fed as it is: of a table's row its json member."""
        return {ROW: FieldSection(members=[ROW_MEMBER])} if self.table is not None else dict(self.fields or {})

    @model_validator(mode="after")
    def keep_source_names_apart(self) -> "DataSection":
        labels = [source.label for source in self.train]
        if len(set(labels)) != len(labels):
            raise ValueError(f"two sources have the same name {labels}; set data.train[].name")
        return self

    @model_validator(mode="after")
    def transform_known_fields(self) -> "DataSection":
        known = set(self.fields or ())
        unknown = [one.field for one in self.transforms if one.field is not None and one.field not in known]
        if unknown:
            raise ValueError(f"transforms change fields that data.fields does not have: {', '.join(map(str, unknown))}")
        return self
