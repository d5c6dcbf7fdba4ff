"""Sections about preparing: cleaning, duplicates, contamination, tokens."""

from typing import Any, Literal

from pydantic import model_validator

from orchestrator.config.marks import CountOrAuto, Section, free, identity


class TokensSection(Section):
    """Where the tokenizer comes from: exactly one of the two."""

    train_bpe: int | None = identity("train a byte-level BPE of this many entries on segment 0", None, ge=257)
    # Free like data.train[].path: the tokenizer's content is part of every segment's id.
    tokenizer: str | None = free(
        "a tokenizer.json file or a transformers directory; a copy elsewhere is the same", None
    )
    text_member: str = identity("suffix of the member that holds the text", "txt")

    @model_validator(mode="after")
    def name_one_tokenizer(self) -> "TokensSection":
        if (self.train_bpe is None) == (self.tokenizer is None):
            raise ValueError("give exactly one of train_bpe and tokenizer")
        return self


class CleanStep(Section):
    """One step of cleaning, in the order given: a rule that drops samples, or one that alters their text."""

    name: str = identity("a rule of docs/prepare.md, or a function's dotted name", min_length=1)
    args: dict[str, Any] = identity("its arguments", {})


class NearSection(Section):
    """Near duplicates: alike by the exact Jaccard similarity of their shingles."""

    threshold: float = identity("from this similarity on a document duplicates an earlier one", 0.8, ge=0.5, le=1)
    recall: float = identity("share of the pairs at the threshold that must be found", 0.95, gt=0, lt=1)
    words: int = identity("words a shingle", 5, ge=1, le=32)
    characters: int = identity(
        "characters a shingle, in documents mostly of scripts that put no spaces between words", 10, ge=1, le=32
    )


class DedupSection(Section):
    """A sample goes only as a duplicate of an earlier one that stays."""

    exact: bool = identity("drop samples that are the same, in text but for whitespace, or in bytes", True)
    near: NearSection | None = identity("drop documents that are nearly the same; none: keep them", None)
    prefer: list[str] = identity("sources whose samples stay rather than others' of their segment, best first", [])
    most_lost: float = free(
        "the work stops if a source loses more than this share of its samples to them", 0.9, gt=0, le=1
    )


class DecontaminateSection(Section):
    """Training samples too close to what the model is tested on go."""

    similarity: float | None = identity(
        "a training document this similar to one for validation or test, or to one in `files`, goes; none: any stays",
        0.5,
        ge=0.3,
        le=1,
    )
    files: list[str] = identity(
        "what must not be trained on: files .txt (a text a line) or .jsonl; tar shards, also as folders or globs", []
    )
    ngram: int = identity("a document that has this many words in a row of a text in `files` goes", 13, ge=1, le=64)


class PrepareSection(Section):
    mode: Literal["first", "ahead"] = free(
        "first: prepare everything before training; ahead: train as soon as the first segment is prepared", "first"
    )
    cpus: CountOrAuto = free(
        "ahead: CPUs of each node that prepare while ranks train; auto: a quarter of them, at least one", "auto"
    )
    clean: list[CleanStep] = identity("what is dropped or repaired before anything is compared or fed", [])
    statistics: Literal["first", "all"] = identity(
        "training rows whose statistics rules for tables go by: of the first segment, or of all there is at first",
        "first",
    )
    dedup: DedupSection | None = identity("which duplicates go; none: they stay", None)
    compare: str | None = identity("suffix of the member whose text is compared; none: that of prepare.tokens", None)
    decontaminate: DecontaminateSection | None = identity("keep test data out of training data", None)
    tokens: TokensSection | None = identity("how text becomes tokens; needed by causal_lm", None)
