"""One job of an import: some pieces of inputs become some shards, and a marker says so. A pure function of the job.

It runs in this process, in another one, or as a Ray task; running it again changes nothing."""

from contextlib import closing
from dataclasses import dataclass, field

from orchestrator.core.errors import DataError
from orchestrator.importing.destination import Destination
from orchestrator.importing.inputs import stamp_file
from orchestrator.importing.kinds import KINDS, Kind
from orchestrator.importing.pack import ShardWriter
from orchestrator.importing.sample import Piece, Reject, Sample, Unreadable
from orchestrator.importing.wish import KindName, Wish

_SKIP = "or leave such out: --on-bad skip"
_UNREADABLE = "input that cannot be read to its end"
_REPEATED = "key was in the shard already"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Consecutive pieces that together come to about a shard."""

    number: int
    kind: KindName
    pieces: tuple[Piece, ...]
    wish: Wish
    place: Destination


@dataclass
class Tally:
    """What was left out, by reason: how often, and where first."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def count(self, reason: str, where: str, times: int = 1) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + times
        self.first.setdefault(reason, where)

    def add(self, other: "Tally") -> None:
        for reason, times in other.counts.items():
            self.count(reason, other.first[reason], times)

    def as_json(self) -> dict[str, dict[str, int | str]]:
        return {reason: {"count": self.counts[reason], "first": self.first[reason]} for reason in sorted(self.counts)}

    @classmethod
    def from_json(cls, found: dict[str, dict[str, int | str]]) -> "Tally":
        tally = cls()
        for reason, one in found.items():
            tally.count(reason, str(one["first"]), int(one["count"]))
        return tally


def run_job(job: Job) -> int:
    """Its number, once its shards and its marker are on disk."""
    marker = job.place.marker(job.number)
    if marker.exists():
        return job.number
    kind, tally = KINDS[job.kind], Tally()
    with ShardWriter(job.place, job.number, job.wish) as writer:
        for piece in job.pieces:
            _pack_piece(kind, piece, job, writer, tally)
        shards = [packed._asdict() for packed in writer.finish()]
    job.place.publish(marker, {"shards": shards, "of": _describe(job), "left_out": tally.as_json()})
    return job.number


def _pack_piece(kind: Kind, piece: Piece, job: Job, writer: ShardWriter, tally: Tally) -> None:
    try:
        with closing(kind.read(piece, job.wish, job.place.parts)) as items:
            for item in items:
                if isinstance(item, Reject):
                    _leave_out(kind, piece, item, job.wish, tally)
                elif not isinstance(item, Sample):
                    writer.adopt(item)
                elif not writer.add(item):
                    remedy = "make keys unique, or leave --key out: samples are then numbered"
                    _leave_out(kind, piece, Reject(item.at, _REPEATED, remedy, item.key), job.wish, tally)
    except Unreadable as error:
        if job.wish.on_bad == "fail":
            raise Unreadable(error.message, where=error.where, remedy=f"{error.remedy}; {_SKIP}") from error
        tally.count(_UNREADABLE, f"{error.where}: {error.message}")
    _refuse_changed(piece)


def _leave_out(kind: Kind, piece: Piece, reject: Reject, wish: Wish, tally: Tally) -> None:
    if reject.harmless or wish.on_bad == "skip":
        where = "" if reject.reason in tally.first else _locate(kind, piece, reject)  # may cost reading
        tally.count(reject.reason, where)
        return
    raise DataError(reject.reason, where=_locate(kind, piece, reject), remedy=f"{reject.remedy}; {_SKIP}")


def _locate(kind: Kind, piece: Piece, reject: Reject) -> str:
    where = kind.locate(piece, reject.at)
    return f"{where}, key {reject.key!r}" if reject.key else where


def _refuse_changed(piece: Piece) -> None:
    """The stamps written down at the start must be those of the bytes that were read."""
    try:
        changed = stamp_file(piece.source.path) != piece.source.stamp
    except OSError:
        changed = True
    if changed:
        raise DataError(
            "has changed or gone while it was imported",
            where=piece.source.path,
            remedy="wait until inputs are written, delete the destination, then import anew",
        )


def _describe(job: Job) -> str:
    """Which inputs the shards are made of."""
    first, last = job.pieces[0].source.path, job.pieces[-1].source.path
    return first if first == last else f"{first} to {last}"
