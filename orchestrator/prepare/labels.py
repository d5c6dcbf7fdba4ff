"""What is learned of each sample, looked at before training: rows of a table that nothing can be learned from, and how
often each class is there (task.loss.class_weights: balanced). Called by shard.py and judging/signs.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np

from orchestrator.config.data import ROW_MEMBER
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.decoding.decode import Undecodable, decode, decode_json
from orchestrator.data.decoding.fields import Decoding
from orchestrator.data.decoding.table import BadRow, Figures, RowReader
from orchestrator.data.shards.index import ShardIndex
from orchestrator.prepare.drops import Drop

BAD_ROW = "bad row"


@dataclass(frozen=True)
class Labels:
    """How the class of a sample is read, and how many classes there are. `name`: of the field that holds it."""

    decoding: Decoding
    name: str
    classes: int

    @classmethod
    def of(cls, config: RunConfig) -> "Labels | None":
        """None unless classes are to be counted."""
        data, classes = config.data, config.num_classes
        if config.task.loss.class_weights != "balanced" or classes is None:
            return None
        rows = RowReader.of(config, Figures())
        if rows is not None:
            return cls(Decoding.of(data, rows), "target", classes)
        fields = {name: field for name, field in data.read_fields.items() if name == "label"}
        return cls(Decoding(fields, [one for one in data.transforms if one.field == "label"]), "label", classes)

    def as_json(self) -> dict[str, Any]:
        """All that decides what is counted, beside the table."""
        fields = {name: field.model_dump() for name, field in self.decoding.fields.items()}
        return {
            "classes": self.classes,
            "fields": fields,
            "transforms": [one.model_dump() for one in self.decoding.transforms],
        }


def find_bad_rows(data: mmap | bytes, index: ShardIndex, rows: RowReader, places: Sequence[int]) -> list[Drop]:
    """Of these samples the rows that nothing can be learned from."""
    found, view = index.find_members([ROW_MEMBER]), memoryview(data)
    drops = []
    for place in places:
        begin = int(found.begin[place])
        try:
            rows.read(decode(decode_json, view[begin : begin + int(found.size[place])]))
        except (BadRow, Undecodable) as error:
            drops.append(Drop(place, BAD_ROW, str(error)))
    return drops


def count_classes(
    data: mmap | bytes, index: ShardIndex, shard: ShardRef, labels: Labels, places: Sequence[int]
) -> list[int]:
    """How often each class stands in these samples; of those that do not decode nobody knows it."""
    values = _read_labels(data, index, labels, places)
    counts = [0] * labels.classes
    for place, value in values.items():
        if not isinstance(value, int | np.integer) or not 0 <= value < labels.classes:
            raise DataError(
                f"the label of sample {index.keys()[place]} is {value!r}, and classes are whole numbers from 0 to "
                f"{labels.classes - 1}",
                where=shard.name,
                remedy="correct it, set task.classes, or have data.transforms make a number of the field `label`",
            )
        counts[int(value)] += 1
    return counts


def _read_labels(data: mmap | bytes, index: ShardIndex, labels: Labels, places: Sequence[int]) -> Mapping[int, Any]:
    """By place."""
    view, members = memoryview(data), {}
    for name, field in labels.decoding.fields.items():
        found = index.find_members(field.members)
        extents = [(int(found.begin[place]), int(found.size[place])) for place in places]
        suffixes = [field.members[int(found.suffix[place])] for place in places]
        members[name] = (suffixes, [view[begin : begin + size] for begin, size in extents])
    columns, failures = labels.decoding.decode_columns(members, np.zeros(len(places), np.uint64))
    read = zip(places, columns.get(labels.name, ()), strict=False)
    return {place: value for row, (place, value) in enumerate(read) if row not in failures}
