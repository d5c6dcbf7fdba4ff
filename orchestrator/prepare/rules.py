"""The rules by which preparing decides: everything beside the raw bytes and the tokenizer that verdicts depend on.

Their id is part of every segment's id and of the names of prepared files, so other rules never meet these files."""

import json
from dataclasses import dataclass

from orchestrator.config.data import SplitSection
from orchestrator.data.index import OnBad
from orchestrator.storage.workplace import hash_text

VERSION = 1  # rises when the same rules come to other verdicts or tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    split: SplitSection
    text_member: str
    on_bad: OnBad

    @property
    def id(self) -> str:
        return hash_json(
            {
                "version": VERSION,
                "split": self.split.model_dump(),
                "text_member": self.text_member,
                "on_bad": self.on_bad,
            }
        )


def hash_json(value: object) -> str:
    return hash_text(json.dumps(value, sort_keys=True))
