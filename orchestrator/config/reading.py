"""Sections about reading samples: fields, transforms, workers, stores and the node's cache."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from orchestrator.config.marks import CountOrAuto, Section, free, identity
from orchestrator.config.problems import Problem, WrongValues

BATCH_NAMES = ("weights", "draw_keys")  # what every batch of samples has beside its fields
_SECRETS = ("secret", "token", "password", "key")


class FieldSection(Section):
    """One thing that is read of every sample, under the name it has in a batch."""

    members: list[str] = identity("suffixes of the member that holds it; the first one that is there", min_length=1)
    decode: str = identity("auto: by the suffix; else a decoder of docs/data.md, or a function's dotted name", "auto")

    @field_validator("members")
    @classmethod
    def write_suffixes_as_indexed(cls, members: list[str]) -> list[str]:
        """Without a leading dot, in small letters."""
        return [suffix.lstrip(".").lower() for suffix in members]


def keep_batch_names(fields: dict[str, FieldSection]) -> dict[str, FieldSection]:
    """A field of such a name would be lost."""
    taken = [name for name in BATCH_NAMES if name in fields]
    if taken:
        reason = "every batch has something else under this name: give the field another one"
        raise WrongValues(Problem(f"data.fields.{name}", reason) for name in taken)
    return fields


Fields = Annotated[dict[str, FieldSection], Field(min_length=1), AfterValidator(keep_batch_names)]


class TransformSection(Section):
    """One step between decoding and batching, in the order given."""

    name: str = identity("a transform of docs/data.md, or a function's dotted name", min_length=1)
    field: str | None = identity("the field it changes; none: it is given the whole sample", None)
    args: dict[str, Any] = identity("its arguments", {})


class WorkersSection(Section):
    """Who decodes, on each rank."""

    threads: CountOrAuto = free("threads that read and decode; auto: the rank's CPUs", "auto")
    processes: int = free("processes that decode instead, for Python code that holds the GIL; 0: none", 0, ge=0)


class StoreSection(Section):
    """How object stores are spoken to. Secrets come from the environment, as each store's package reads them."""

    options: dict[str, dict[str, Any]] = free("by protocol (s3, gs, ...): arguments of its fsspec file system", {})
    timeout_s: float = free("a request that takes longer has failed", 60.0, gt=0)
    retry_for_s: float = free(
        "a store that fails is tried again for this long; then the run ends, resumable", 900.0, ge=0
    )

    @field_validator("options")
    @classmethod
    def refuse_secrets(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """A config is written into the run directory, and is read by everybody who sees it."""
        secrets = [f"{p}.{name}" for p, given in options.items() for name in given if name.lower().endswith(_SECRETS)]
        if secrets:
            raise ValueError(
                f"{', '.join(secrets)} looks like a secret, and configs are written down: set it in the environment"
            )
        return options


class CacheSection(Section):
    """Bytes of remote shards kept on a node's own disk; local shards are read where they are."""

    folder: str | None = free("folder on each node's own disk; none: longhaul-cache-<uid> in its temporary one", None)
    limit_bytes: int = free("most bytes kept there; what is in use stays", 64 * 2**30, ge=1)
