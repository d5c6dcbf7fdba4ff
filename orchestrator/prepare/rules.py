"""The rules by which preparing decides: everything beside the raw bytes and the tokenizer that verdicts depend on.

Their id is part of every segment's id and of the names of prepared files, so other rules never meet these files."""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from orchestrator.config.data import SplitSection
from orchestrator.config.preparing import CleanStep, DecontaminateSection, DedupSection, NearSection
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError
from orchestrator.data.decoding.table import Figures, RowReader
from orchestrator.data.shards.index import OnBad
from orchestrator.prepare.labels import Labels
from orchestrator.storage.hashes import hash_file
from orchestrator.storage.stores import StoreSettings, open_stores
from orchestrator.storage.workplace import WorkPlace, hash_text

if TYPE_CHECKING:
    from orchestrator.prepare.near.documents import NearRules

VERSION = 3  # rises when the same rules come to other verdicts, tokens or tables
COMPARING = 2  # the same, where only those that compare samples do


class Model(NamedTuple):
    """A file that a step of cleaning decides by."""

    path: str
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """`text_member` where text becomes tokens; `fields` (name, suffixes) where members are fed as they are."""

    split: SplitSection
    on_bad: OnBad
    text_member: str = ""
    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()
    clean: tuple[CleanStep, ...] = ()
    models: tuple[Model, ...] = ()  # of the steps that name one, in their order
    compared_member: str = ""  # whose text is compared; none: the members that are fed, byte by byte
    dedup: DedupSection | None = None
    decontaminate: DecontaminateSection | None = None
    forbidden: tuple[str, ...] = ()  # what the files of decontaminate hold
    rows: RowReader | None = None  # of data.table; its figures are of segment 0, like statistics
    labels: Labels | None = None  # where classes are counted
    statistics_from: Literal["first", "all"] = "first"
    statistics: str = ""  # JSON, once they are collected (collect.py)

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        data, prepare, tokens = config.data, config.prepare, config.prepare.tokens
        fields = tuple((name, tuple(field.members)) for name, field in data.read_fields.items())
        text_member = tokens.text_member.lower() if tokens is not None else ""
        return cls(
            split=data.split,
            on_bad=data.on_bad,
            text_member=text_member,
            fields=fields,
            clean=tuple(prepare.clean),
            models=tuple(_hash_models(config)),
            compared_member=(prepare.compare or text_member).lower(),
            dedup=prepare.dedup,
            decontaminate=prepare.decontaminate,
            forbidden=_hash_forbidden(config),
            rows=RowReader.of(config, Figures()),
            labels=Labels.of(config),
            statistics_from=prepare.statistics,
        )

    @property
    def near(self) -> NearSection | None:
        """How documents are compared; None where none are."""
        if self.dedup is not None and self.dedup.near is not None:
            return self.dedup.near
        looks = self.decontaminate is not None and self.decontaminate.similarity is not None
        return NearSection() if looks else None

    @property
    def near_to_tested(self) -> "NearRules | None":
        """How training documents are compared with those that they must not be like; None where they are not."""
        from orchestrator.prepare.near.documents import NearRules

        if self.near is None or self.decontaminate is None or self.decontaminate.similarity is None:
            return None
        return replace(NearRules.of(self.near), threshold=self.decontaminate.similarity)

    @property
    def compares(self) -> bool:
        """Whether verdicts on a sample depend on other samples."""
        return self.dedup is not None or self.decontaminate is not None

    @property
    def makes_tokens(self) -> bool:
        """Whether text becomes tokens here; where members are fed as they are, that is done when they are."""
        return bool(self.text_member) and not self.fields

    @property
    def needed(self) -> list[tuple[str, ...]]:
        """For each thing that is fed the suffixes of which a sample must have one."""
        fed = [suffixes for _, suffixes in self.fields] or [(self.text_member,)]
        return fed if self.split.by is None else [*fed, ("json",)]

    @property
    def id(self) -> str:
        value: dict[str, Any] = {
            "version": VERSION,
            "split": _dump_split(self.split),
            "on_bad": self.on_bad,
            "text_member": self.text_member,
            "fields": self.fields,
        }
        if self.clean:
            value["clean"] = [_dump_step(step) for step in self.clean]
        if self.models:
            value["models"] = [model.hash for model in self.models]
        if self.rows is not None:
            value["table"] = [self.rows.table.model_dump(), self.rows.classes]
        if self.labels is not None:
            value["labels"] = self.labels.as_json()
        if self.statistics_from == "all":  # those of segment 0 follow from what it holds, these do not
            value["statistics"] = self.statistics or "all"
        if self.compares:
            value |= self._comparing()
        return hash_json(value)

    def _comparing(self) -> dict[str, Any]:
        """What decides which samples are too much alike. How many may be lost is no rule: it only stops the work."""
        from orchestrator.prepare.near.documents import ALGORITHM

        dedup = self.dedup.model_dump(exclude={"most_lost"}) if self.dedup else None
        decontaminate = self.decontaminate.model_dump(exclude={"files"}) if self.decontaminate else None
        return {
            "comparing": COMPARING,
            "algorithm": ALGORITHM,
            "unicode": unicodedata.unidata_version,
            "compared_member": self.compared_member,
            "dedup": dedup,
            "decontaminate": decontaminate,
            "forbidden": list(self.forbidden),
        }


def _hash_forbidden(config: RunConfig) -> tuple[str, ...]:
    decontaminate = config.prepare.decontaminate
    if decontaminate is None or not decontaminate.files:
        return ()
    from orchestrator.prepare.judging.outside import hash_files

    stores = open_stores(StoreSettings.of(config.data))
    return tuple(hash_files(decontaminate.files, WorkPlace.at(config.data.work), stores))


def _hash_models(config: RunConfig) -> Iterator[Model]:
    """Of steps whose arguments make sense; check.py tells the others."""
    for i, step in enumerate(config.prepare.clean):
        model = step.args.get("model")
        if step.name != "language" or not isinstance(model, str):
            continue
        path = Path(model).expanduser().absolute()
        if not path.is_file():
            raise ConfigError(
                f"there is no model {path}",
                where=f"prepare.clean.{i}.args.model",
                remedy="give the path of a fastText model, such as lid.176.bin, that every machine can read",
            )
        stores = open_stores(StoreSettings.of(config.data))
        yield Model(str(path), hash_file(str(path), WorkPlace.at(config.data.work), stores))


def _dump_step(step: CleanStep) -> dict[str, Any]:
    """Without the path of a model, of which the content counts."""
    return step.model_dump(exclude={"args": {"model"}} if step.name == "language" else None)


def _dump_split(split: SplitSection) -> dict[str, Any]:
    """Without what is not used, so that data prepared before there was such a key stays prepared."""
    unused = {name for name in ("by", "folds") if getattr(split, name) is None}
    return split.model_dump(exclude=unused | ({"fold"} if split.folds is None else set()))


def hash_json(value: object) -> str:
    return hash_text(json.dumps(value, sort_keys=True))
