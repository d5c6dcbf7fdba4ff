"""The field `text` -> tokens, for tasks that read a text as a whole; and the run's tokenizer, ready to encode.

Called by fields.py in the threads that decode. causal_lm has its tokens from prepare, by the same tokenizer."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.core.errors import DataError
from orchestrator.data.decoding.fields import TransformFailed
from orchestrator.data.shards.chain import TokenizerInfo

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEY = "prepare.tokens.tokenizer"
TEXT = "text"  # the field
CHARACTERS_A_TOKEN = 16  # no more of a text is looked at, since only its beginning is fed


@dataclass(frozen=True)
class TextReader:
    """`tokens` [seq_len], with the end mark in their place behind the text, and `length`, how many are the text's.

    A text too long is cut; every text ends with one end mark, so none is without tokens."""

    tokenizer: TokenizerInfo
    seq_len: int

    def __call__(self, columns: dict[str, list[Any]], failures: dict[int, str]) -> dict[str, list[Any]]:
        good = [row for row in range(len(columns[TEXT])) if row not in failures]
        characters = self.seq_len * CHARACTERS_A_TOKEN
        texts = [_as_text(columns[TEXT][row], row)[:characters] for row in good]
        encodings = open_tokenizer(self.tokenizer).encode_batch_fast(texts, add_special_tokens=False)
        tokens: list[Any] = [None] * len(columns[TEXT])
        lengths: list[Any] = [None] * len(columns[TEXT])
        for row, encoding in zip(good, encodings, strict=True):
            ids = encoding.ids[: self.seq_len - 1]
            tokens[row] = np.full(self.seq_len, self.tokenizer.end_id, np.int32)
            tokens[row][: len(ids)] = ids
            lengths[row] = np.int32(len(ids) + 1)
        return {name: column for name, column in columns.items() if name != TEXT} | {
            "tokens": tokens,
            "length": lengths,
        }


def _as_text(value: Any, row: int) -> str:
    if isinstance(value, str):
        return value
    failed = TransformFailed(
        f"the field {TEXT} is a {type(value).__name__}, not a text",
        where=f"data.fields.{TEXT}",
        remedy="decode it as text, or pick the text from a json member with data.transforms",
    )
    failed.row = row
    raise failed


@lru_cache(maxsize=2)
def open_tokenizer(info: TokenizerInfo) -> "Tokenizer":
    """Ready to encode raw text: no truncation, and the name of a special token inside a text is plain text."""
    tokenizer = parse_tokenizer(Path(info.path).read_bytes(), info.path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def parse_tokenizer(text: bytes, where: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text.decode())
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            f"is no tokenizer: {error}", where=where, remedy=f"give {KEY} a tokenizer.json of the tokenizers library"
        ) from error
