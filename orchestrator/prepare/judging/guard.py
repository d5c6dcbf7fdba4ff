"""Stops the work when duplicates take more of a source than is plausible: a wrong field or rule rather than bad luck.

Called by judge.py before anything of a segment is decided for good."""

from collections import Counter
from collections.abc import Mapping, Sequence

from orchestrator.core.errors import DataError
from orchestrator.data.shards.index import index_shard
from orchestrator.prepare.drops import DUPLICATES, Drop
from orchestrator.prepare.plan import Steps
from orchestrator.storage.stores import open_stores

FEW = 100  # samples of a source in a segment that say nothing yet
SHOWN = 10


def check_losses(steps: Steps, sizes: Mapping[int, int], drops: Mapping[int, Sequence[Drop]]) -> None:
    """`sizes` and `drops` of a segment's shards, by ordinal."""
    assert steps.rules.dedup is not None
    most = steps.rules.dedup.most_lost
    for source, name in enumerate(steps.dataset.source_names):
        ordinals = [ordinal for ordinal in sizes if steps.dataset.shards[ordinal].source == source]
        samples = sum(sizes[ordinal] for ordinal in ordinals)
        lost = [drop for ordinal in ordinals for drop in drops[ordinal] if drop.rule in DUPLICATES]
        if samples >= FEW and len(lost) > most * samples:
            raise DataError(
                f"{len(lost):,} of the {samples:,} samples of source {name} would go as duplicates, "
                f"{len(lost) / samples:.0%}; the largest groups:\n{_list_groups(steps, lost)}",
                where=f"data.train: {name}",
                remedy="look at some with longhaul prepare --explain; if they are duplicates, raise "
                f"prepare.dedup.most_lost above {most}; else check prepare.compare and the source",
            )


def _list_groups(steps: Steps, lost: Sequence[Drop]) -> str:
    """Kept samples with the most duplicates, by name."""
    groups = Counter((drop.partner_ordinal, drop.partner_place) for drop in lost)
    lines = []
    for (ordinal, place), count in sorted(groups.items(), key=lambda group: (-group[1], group[0]))[:SHOWN]:
        assert ordinal is not None
        assert place is not None
        lines.append(f"  {count:>9,} x {_name(steps, ordinal, place)}")
    return "\n".join(lines)


def _name(steps: Steps, ordinal: int, place: int) -> str:
    shard = steps.dataset.shards[ordinal]
    index = index_shard(shard, steps.work.root, steps.rules.on_bad, open_stores(steps.stores))
    return f"{shard.name}/{index.keys()[place]}"
