"""`longhaul index` and `longhaul prepare`: data work ahead of a run, on the same Ray a run would use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launch.cluster import reached_cluster
from launch.loading import load_checked
from launch.screen import Screen
from orchestrator.config.run import RunConfig
from orchestrator.data.shards.split import SPLITS


def index_ahead(path: Path, overlays: Sequence[Path], sets: Sequence[str], screen: Screen) -> None:
    config = load_checked(path, overlays, sets)
    with _on_ray(config), screen.preparing() as progress:
        from orchestrator.control.fleet import run_all
        from orchestrator.prepare.run import index_all

        reports = index_all(config, run_all, progress)
    for report in reports:
        if report.problem or report.bad or report.missing:
            lacking = f"{report.bad} samples cannot be used, {report.missing} lack a member that is fed"
            screen.say(f"{report.name}: {report.problem or lacking}")
    samples = sum(report.samples for report in reports)
    screen.say(f"{len(reports)} shards with {samples} samples are indexed in {config.data.work}")


def prepare_ahead(path: Path, overlays: Sequence[Path], sets: Sequence[str], screen: Screen) -> None:
    config = load_checked(path, overlays, sets)
    with _on_ray(config), screen.preparing() as progress:
        from orchestrator.control.fleet import run_all
        from orchestrator.prepare.run import prepare

        manifest = prepare(config, run_all, progress)
    unit, counts = ("tokens", manifest.totals) if manifest.has_tokens else ("samples", manifest.kept)
    totals = {split: int(counts(split).sum()) for split in SPLITS}
    shown = ", ".join(f"{count:,} {split}" for split, count in totals.items() if count)
    screen.say(f"{len(manifest.segments)} segment(s) are prepared in {config.data.work}; {unit}: {shown}")


@contextmanager
def _on_ray(config: RunConfig) -> Iterator[None]:
    with reached_cluster(config, Path(config.root) / config.name, trains=False) as cluster, cluster.connected():
        yield
