"""The rules by which preparing decides: everything beside the raw bytes and the tokenizer that verdicts depend on.

Their id is part of every segment's id and of the names of prepared files, so other rules never meet these files."""

import json
from dataclasses import dataclass
from typing import Self

from orchestrator.config.data import SplitSection
from orchestrator.config.run import RunConfig
from orchestrator.data.shards.index import OnBad
from orchestrator.storage.workplace import hash_text

VERSION = 2  # rises when the same rules come to other verdicts, tokens or tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """`text_member` where text becomes tokens; `fields` (name, suffixes) where members are fed as they are."""

    split: SplitSection
    on_bad: OnBad
    text_member: str = ""
    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        data, tokens = config.data, config.prepare.tokens
        fields = tuple((name, tuple(field.members)) for name, field in (data.fields or {}).items())
        text_member = tokens.text_member.lower() if tokens is not None else ""
        return cls(split=data.split, on_bad=data.on_bad, text_member=text_member, fields=fields)

    @property
    def needed(self) -> list[tuple[str, ...]]:
        """For each thing that is fed the suffixes of which a sample must have one."""
        return [suffixes for _, suffixes in self.fields] or [(self.text_member,)]

    @property
    def id(self) -> str:
        return hash_json(
            {
                "version": VERSION,
                "split": self.split.model_dump(),
                "on_bad": self.on_bad,
                "text_member": self.text_member,
                "fields": self.fields,
            }
        )


def hash_json(value: object) -> str:
    return hash_text(json.dumps(value, sort_keys=True))
