"""Holds the `deepspeed:` section of a config against the tables of deepspeed_keys.py. run.py asks for every config."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.config.deepspeed_keys import ALLOWED, COUNT, OWNED, REFUSED, SWITCH, Takes, in_words
from orchestrator.config.problems import Problem, nearest, shown

if TYPE_CHECKING:
    from orchestrator.config.run import RunConfig

_KNOWN = (*ALLOWED, *OWNED, *REFUSED)


def check_deepspeed(config: "RunConfig") -> list[Problem]:
    """Unknown, refused or contradicting keys, values of the wrong kind, pairs that cannot work."""
    problems = list(_walk(config, config.deepspeed, ""))
    return problems or list(_check_together(config))


def _walk(config: "RunConfig", section: Mapping[str, Any], prefix: str) -> Iterator[Problem]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        below = f"{key}."
        if key in REFUSED:
            yield Problem(f"deepspeed.{key}", f"is refused: {REFUSED[key]}")
        elif key in OWNED:
            yield from _check_owned(config, key, value)
        elif key in ALLOWED:
            yield from _check_value(key, value)
        elif not any(known.startswith(below) for known in _KNOWN):
            siblings = {known.removeprefix(prefix).partition(".")[0] for known in _KNOWN if known.startswith(prefix)}
            hint = nearest(name, siblings) or "; docs/deepspeed.md lists those that work"
            yield Problem(f"deepspeed.{key}", f"unknown key{hint}")
        elif isinstance(value, Mapping):
            yield from _walk(config, value, below)
        else:
            yield Problem(f"deepspeed.{key}", "must be a section with keys of its own", shown(value))


def _check_owned(config: "RunConfig", key: str, value: Any) -> Iterator[Problem]:
    owned = OWNED[key]
    ours = owned.value(config)
    # `true` is no 1 and `1` no true here, though Python calls them equal.
    if value == "auto" or (ours is not None and value == ours and isinstance(value, bool) == isinstance(ours, bool)):
        return
    equal = "" if ours is None else f", or equal to it: {shown(ours)}"
    yield Problem(f"deepspeed.{key}", f"is set by {owned.by}: leave it out, auto{equal}", shown(value))


def _check_value(key: str, value: Any) -> Iterator[Problem]:
    allowed = ALLOWED[key]
    if not _fits(allowed.takes, value):
        hint = "leave it out for DeepSpeed's default" if value == "auto" else allowed.note
        message = f"must be {in_words(allowed.takes)}{'; ' if hint else ''}{hint}"
        yield Problem(f"deepspeed.{key}", message, shown(value))


def _fits(takes: Takes, value: Any) -> bool:
    if takes == SWITCH or isinstance(value, bool):
        return takes == SWITCH and isinstance(value, bool)
    if takes == COUNT:  # DeepSpeed's examples write sizes as 5e8
        return isinstance(value, int | float) and value >= 0 and float(value).is_integer()
    return isinstance(value, str | int) and value in takes


def _check_together(config: "RunConfig") -> Iterator[Problem]:
    """Pairs that DeepSpeed refuses late, or takes and ignores."""
    zero, stage, precision = config.deepspeed.get("zero_optimization", {}), config.zero_stage, config.train.precision
    for part in ("offload_optimizer", "offload_param"):
        key = f"zero_optimization.{part}.device"
        if zero.get(part, {}).get("device") == "cpu" and stage not in ALLOWED[key].stages:
            stages = " or ".join(map(str, ALLOWED[key].stages))
            yield Problem(f"deepspeed.{key}", f"needs zero_optimization.stage {stages}, which is {stage}", "cpu")
    accumulated = config.deepspeed.get("data_types", {}).get("grad_accum_dtype", precision)
    if stage == 0 and accumulated != precision:
        key = "deepspeed.data_types.grad_accum_dtype"
        yield Problem(key, f"must be train.precision ({precision}) at ZeRO stage 0", shown(accumulated))
