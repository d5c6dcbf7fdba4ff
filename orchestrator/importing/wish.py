"""What the user wants of an import. Everything here decides bytes; a resumed import must have the same."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from orchestrator.core.errors import BadInput
from orchestrator.importing.sample import is_suffix

KindName = Literal["tar", "jsonl", "parquet", "images"]
OnBad = Literal["fail", "skip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """`members` are (suffix, field). Fields that no option names become the member .json, unless they are dropped."""

    name: str = "shard"
    text: str | None = None
    key: str | None = None
    members: tuple[tuple[str, str], ...] = ()
    drop_rest: bool = False
    shard_bytes: int = 256 * 2**20
    shard_samples: int | None = None
    on_bad: OnBad = "fail"

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise BadInput("cannot begin a file's name", where=f"--name {self.name}", remedy="give a plain word")
        self._check_suffixes()

    def check_kind(self, kind: KindName) -> None:
        if kind in ("tar", "images") and (self.text or self.key or self.members or self.drop_rest):
            raise BadInput(
                "--text, --key, --member and --drop-rest choose fields of rows",
                where=f"input of kind {kind}",
                remedy="leave them out, or say with --from what the input is",
            )

    def _check_suffixes(self) -> None:
        for suffix, field in self.members:
            if not is_suffix(suffix):
                raise BadInput(
                    f"{suffix!r} is no suffix that readers give back unchanged",
                    where=f"--member {suffix}={field}",
                    remedy="write it in small letters, digits, - and _, without a leading dot, for example jpg",
                )
        suffixes = [suffix for suffix, _ in self.taken] + ([] if self.drop_rest else ["json"])
        for suffix in suffixes:
            if suffixes.count(suffix) > 1:
                raise BadInput(
                    f"two members would be called .{suffix}",
                    where="--text, --member",
                    remedy="choose another suffix"
                    + (", or give --drop-rest, since other fields become .json" if suffix == "json" else ""),
                )

    @property
    def taken(self) -> list[tuple[str, str]]:
        """(suffix, field) of every member but the rest."""
        return [*([("txt", self.text)] if self.text else []), *self.members]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "members": [list(pair) for pair in self.members]}


def parse_member(text: str) -> tuple[str, str]:
    """`suffix=FIELD`."""
    suffix, equals, field = text.partition("=")
    if not equals or not suffix or not field:
        raise BadInput("is not suffix=FIELD", where=f"--member {text}", remedy="write for example --member jpg=image")
    return suffix, field
