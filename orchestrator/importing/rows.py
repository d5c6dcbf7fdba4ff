"""Turns a row (a JSON object, a row of a table) into a sample, as the options say. Used by lines.py and columns.py."""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.importing.sample import Reject, Sample, find_key_fault
from orchestrator.importing.wish import Wish

_NO_FIELD = "name a field that every row has"


class _Unusable(Exception):
    """Why a row cannot become a sample, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


def make_sample(row: Mapping[str, Any], at: int, number: int, wish: Wish) -> Sample | Reject:
    """`at` is where the row stands in input `number`; without --key the two are the sample's key."""
    try:
        key = f"{number:05d}-{at:012d}" if wish.key is None else _take_key(row, wish.key)
        members: list[tuple[str, bytes | memoryview]] = []
        for suffix, field in wish.taken:
            members.append((suffix, _take_text(row, field) if field == wish.text else _take_member(row, field, suffix)))
        rest = {} if wish.drop_rest else _find_rest(row, wish)
        if rest:
            members.append(("json", _encode(_dump(rest), "the rest")))
    except _Unusable as error:
        return Reject(at, error.reason, error.remedy)
    return Sample(at, key, members) if members else Reject(at, "nothing is left of the row", "name fields by --member")


def _take_key(row: Mapping[str, Any], field: str) -> str:
    value = _take(row, field)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Unusable(f"field {field} is no text or whole number", "choose another field for --key")
    key = str(value)
    fault = find_key_fault(key)
    if fault:
        raise _Unusable(
            fault,
            "choose another field for --key, or leave --key out: samples are then numbered, and the field is kept",
        )
    return key


def _take_text(row: Mapping[str, Any], field: str) -> bytes:
    value = _take(row, field)
    if not isinstance(value, str):
        raise _Unusable(f"field {field} is no text", "choose another field for --text, or use --member txt=FIELD")
    return _encode(value, field)


def _take_member(row: Mapping[str, Any], field: str, suffix: str) -> bytes:
    """Bytes and text as they are, numbers as text; lists and objects as JSON, where the suffix says so."""
    value = _take(row, field)
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        value = value["bytes"]
        if value is None:
            raise _Unusable(f"field {field} names a file instead of holding it", "embed the bytes in the table first")
    if isinstance(value, bytes):
        if not value:
            raise _Unusable(f"field {field} is empty", "give the row its bytes")
        return value
    if isinstance(value, str):
        return _encode(value, field)
    if isinstance(value, list | dict) and suffix.rpartition(".")[2] != "json":
        raise _Unusable(
            f"field {field} is a list or an object", f"keep it as JSON: --member {field.lower()}.json={field}"
        )
    return _encode(_dump(value), field)


def _take(row: Mapping[str, Any], field: str) -> Any:
    if field not in row:
        raise _Unusable(f"has no field {field}", f"{_NO_FIELD}; this one has: {', '.join(map(str, list(row)[:12]))}")
    if row[field] is None:
        raise _Unusable(f"field {field} is null", _NO_FIELD)
    return row[field]


def _find_rest(row: Mapping[str, Any], wish: Wish) -> dict[str, Any]:
    used = {wish.key, *(field for _, field in wish.taken)}
    return {field: value for field, value in row.items() if field not in used}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_as_text)


def _as_text(value: Any) -> str:
    """Dates, times and decimals of tables; bytes were refused when the table was opened."""
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _encode(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _Unusable(f"{field} has half a surrogate pair, which is no text", "repair the row") from error
