"""Which run is this? The hash of a config's identity, and what differs between two configs.

Marks of the innermost keys decide; a list of sections is compared entry by entry as long as its length is the same."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.config.marks import Mark, Section, mark_of
from orchestrator.config.problems import shown
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError

HASH_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Change:
    """One key that has another value in the second config."""

    key: str
    mark: Mark
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} [{self.mark.value}]: {shown(self.old)} -> {shown(self.new)}"


def run_hash(config: RunConfig) -> str:
    """Names the run that this config describes: identity keys that differ from their defaults, so that keys added to
    Longhaul later leave old runs their names."""
    found = identity_of(config) | {key: value for key, value in _followed(config).items() if value is not None}
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def identity_of(section: Section) -> dict[str, Any]:
    """Dotted identity keys of a section whose values differ from their defaults."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            inside = {f"{name}.{inner}": kept for inner, kept in identity_of(value).items()}
            absent = mark_of(field) is Mark.IDENTITY and field.get_default(call_default_factory=True) is None
            found |= inside or ({name: {}} if absent else {})  # being there at all differs from the default
        elif _holds_sections(value):
            found[name] = [identity_of(entry) for entry in value]
        elif mark_of(field) is Mark.IDENTITY and value != field.get_default(call_default_factory=True):
            named = isinstance(value, dict) and all(isinstance(entry, Section) for entry in value.values())
            plain = {key: identity_of(entry) for key, entry in value.items()} if named else value
            found[name] = _plain(plain)
    return found


def changed_keys(old: RunConfig, new: RunConfig) -> list[Change]:
    """Every key whose value differs, in the order of the sections."""
    return list(_changes(old, new, ""))


def check_resume(old: RunConfig, new: RunConfig) -> None:
    """Refuse to go on with a run under a config that describes another one."""
    followed = _followed(old).keys() | _followed(new).keys()
    lost = [change for change in changed_keys(old, new) if change.mark is Mark.IDENTITY or change.key in followed]
    if lost:
        lines = [f"{c.key}: makes another run of it (the run has {shown(c.old)}, now {shown(c.new)})" for c in lost]
        raise ConfigError(
            "\n".join(lines),
            remedy=f"take the run's own value back, or start a new run under another name than {old.name}",
        )


def _followed(config: RunConfig) -> dict[str, Any]:
    """Free keys that are identity after all: a plateau's learning rate follows the validations."""
    if config.schedule.name != "plateau":
        return {}
    return {f"evaluate.{name}": getattr(config.evaluate, name) for name in ("every_steps", "max_batches", "best_by")}


def mark_at(key: str) -> Mark:
    """The mark of a dotted key."""
    here: Any = RunConfig
    *sections, name = key.split(".")
    for section in sections:
        here = here.model_fields[section].annotation
    return mark_of(here.model_fields[name])


def _changes(old: Any, new: Any, prefix: str) -> Iterator[Change]:
    for name, field in type(old).model_fields.items():
        key, before, after = f"{prefix}{name}", getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(before, Section) and isinstance(after, Section):
            yield from _changes(before, after, f"{key}.")
        elif _holds_sections(before) and _holds_sections(after) and len(before) == len(after):
            for i, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from _changes(one, other, f"{key}.{i}.")
        else:
            yield Change(key, mark_of(field), _plain(before), _plain(after))


def _holds_sections(value: Any) -> bool:
    """And nothing else: columns of a table are sections or names."""
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Section) for entry in value)


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
