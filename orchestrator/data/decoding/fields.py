"""Bytes of samples -> the values of a batch's rows, as data.fields and data.transforms say. Comes after samples.py,
which reads and checks the bytes; sampled.py stacks the values.

A Decoding travels between processes as the config's words; functions are found in the process that uses them."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from orchestrator.config.data import DataSection
from orchestrator.config.reading import FieldSection, TransformSection
from orchestrator.core.errors import DataError
from orchestrator.core.keyed import Keys
from orchestrator.data.decoding.decode import Bytes, Decoder, Undecodable, decode, decoder_for
from orchestrator.data.decoding.draws import Draw
from orchestrator.data.decoding.transform import takes_draw, transform_for

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class TransformFailed(DataError):
    """A transform raised: a fault of the job. `row` tells which of the samples decoded together it was given."""

    row = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return *super().__reduce__(), {"row": self.row}


class LastStep(Protocol):
    """What goes by figures of the data, after transforms: rows become numbers (table.py), texts tokens (texts.py)."""

    def __call__(self, columns: dict[str, list[Any]], failures: dict[int, str]) -> dict[str, list[Any]]: ...


@dataclass(frozen=True)
class Decoding:
    """How bytes become values."""

    fields: dict[str, FieldSection]
    transforms: list[TransformSection]
    last: LastStep | None = None

    @classmethod
    def of(cls, data: DataSection, last: LastStep | None = None) -> "Decoding":
        return cls(data.read_fields, list(data.transforms), last)

    def __reduce__(self) -> tuple[Any, ...]:
        return Decoding, (self.fields, self.transforms, self.last)

    def decode_sample(self, pieces: Mapping[str, tuple[str, Bytes]], key: np.uint64) -> dict[str, Any]:
        """One sample's values; raises Undecodable."""
        members = {name: ([suffix], [data]) for name, (suffix, data) in pieces.items()}
        columns, failures = self.decode_columns(members, np.array([key], np.uint64))
        if failures:
            raise Undecodable(failures[0])
        return {name: column[0] for name, column in columns.items()}

    def decode_columns(
        self, members: Mapping[str, tuple[Sequence[str], Sequence[Bytes]]], keys: Keys
    ) -> tuple[dict[str, list[Any]], dict[int, str]]:
        """The values of many samples by field, None where one is undecodable; and why, by row.

        `members` has each field's suffixes and bytes, `keys` are those of draws.sample_keys."""
        failures: dict[int, str] = {}
        columns = {
            name: _decode_column(name, decoders, *members[name], failures) for name, decoders in self._decoders.items()
        }
        if self._steps:
            columns = self._transform(columns, keys, failures)
        return (columns if self.last is None else self.last(columns, failures)), failures

    @cached_property
    def _decoders(self) -> dict[str, dict[str, Decoder]]:
        """By field and suffix."""
        return {
            name: {suffix: decoder_for(one.decode, suffix, f"data.fields.{name}.decode") for suffix in one.members}
            for name, one in self.fields.items()
        }

    @cached_property
    def _steps(self) -> "list[_Step]":
        return [_Step.of(one, f"data.transforms.{i}") for i, one in enumerate(self.transforms)]

    def _transform(self, columns: dict[str, list[Any]], keys: Keys, failures: dict[int, str]) -> dict[str, list[Any]]:
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for row, (sample, sample_key) in enumerate(zip(rows, keys.tolist(), strict=True)):
            if row in failures:
                continue
            draw = Draw(sample_key)
            try:
                for step in self._steps:
                    sample = step.apply(sample, draw)
            except Undecodable as error:
                failures[row] = _tell(error)
            except TransformFailed as error:
                error.row = row
                raise
            rows[row] = sample
        good = [sample for row, sample in enumerate(rows) if row not in failures]
        names = list(good[0] if good else columns)
        if any(sample.keys() != set(names) for sample in good):
            raise DataError(
                "samples of one batch have different fields", where="data.transforms", remedy="return the same for all"
            )
        return {name: [None if row in failures else sample[name] for row, sample in enumerate(rows)] for name in names}


class _Step(NamedTuple):
    """One transform with its arguments, ready to be called."""

    key: str
    name: str
    field: str | None
    function: Callable[..., Any]
    draws: bool

    @classmethod
    def of(cls, section: TransformSection, key: str) -> "_Step":
        function = transform_for(section.name, f"{key}.name")
        return cls(key, section.name, section.field, partial(function, **section.args), takes_draw(function))

    def apply(self, sample: dict[str, Any], draw: Draw) -> dict[str, Any]:
        """The sample after this step."""
        drawn = {"draw": draw} if self.draws else {}
        try:
            if self.field is not None:
                return sample | {self.field: self.function(sample[self.field], **drawn)}
            changed = self.function(sample, **drawn)
        except MemoryError:
            raise
        except Undecodable as error:
            raise Undecodable(f"{self.field or 'sample'} ({self.name}): {error}") from error
        except Exception as error:
            seen = sample.get(self.field) if self.field else sample
            raise TransformFailed(
                f"{self.name} failed, given {_describe(seen)}: {type(error).__name__}: {error}",
                where=self.key,
                remedy="correct it or its arguments; a sample it cannot use may raise Undecodable (docs/data.md)",
            ) from error
        if isinstance(changed, dict):
            return changed
        raise TransformFailed(
            f"{self.name} returned {_describe(changed)}, not the sample's fields",
            where=self.key,
            remedy="return a dict of fields, or name the one field that it changes with `field`",
        )


def _decode_column(
    name: str,
    decoders: Mapping[str, Decoder],
    suffixes: Sequence[str],
    raw: Sequence[Bytes],
    failures: dict[int, str],
) -> list[Any]:
    """The values of one field; why a row has none is noted in `failures`."""
    if len(decoders) == 1:
        (decoder,) = decoders.values()
        with suppress(Exception):  # whatever is wrong, and with which samples, is found out one by one
            return [decoder(data) for data in raw]
    column = []
    for row, (suffix, data) in enumerate(zip(suffixes, raw, strict=True)):
        try:
            column.append(decode(decoders[suffix], data))
        except Undecodable as error:
            column.append(None)
            failures.setdefault(row, f"{name} ({suffix}): {_tell(error)}")
    return column


def _tell(error: Undecodable) -> str:
    """Without addresses in memory, as in "<_io.BytesIO object at 0x7f...>": a hole has one text on every machine."""
    return _ADDRESS.sub("", str(error))


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"the fields {', '.join(value)}" if isinstance(value, dict) else f"a {type(value).__name__}"
