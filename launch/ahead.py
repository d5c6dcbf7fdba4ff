"""`longhaul index` and `longhaul prepare`: data work ahead of a run, on the same Ray a run would use."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from launch.cluster import reached_cluster
from launch.loading import load_checked
from launch.screen import Screen
from orchestrator.config.run import RunConfig
from orchestrator.core.mapping import tell_nobody
from orchestrator.data.shards.split import SPLITS

if TYPE_CHECKING:
    from orchestrator.prepare.funnel import Funnel


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


def prepare_ahead(path: Path, overlays: Sequence[Path], sets: Sequence[str], screen: Screen, *, as_json: bool) -> None:
    config = load_checked(path, overlays, sets)
    with _on_ray(config), screen.preparing() as progress:
        from orchestrator.control.fleet import run_all
        from orchestrator.prepare.funnel import count_funnels
        from orchestrator.prepare.others import find_others
        from orchestrator.prepare.run import prepare

        manifest = prepare(config, run_all, tell_nobody if as_json else progress)
    funnels, recall = count_funnels(manifest), tell_recall(config)
    chain, others = str(manifest.work.chain(manifest.chain)), [str(folder) for folder in find_others(manifest)]
    if as_json:
        value = {"format": 1, "work": config.data.work, "segments": len(manifest.segments)}
        value |= {"chain": chain, "others": others}
        print(json.dumps({**value, "funnel": [funnel.as_json() for funnel in funnels], "recall": recall}))
        return
    show_funnels(funnels, screen)
    if recall:
        screen.say("recall by similarity: " + ", ".join(f"{s:.2f}: {r:.3f}" for s, r in recall))
    unit, counts = ("tokens", manifest.totals) if config.packed_len is not None else ("samples", manifest.kept)
    totals = {split: int(counts(split).sum()) for split in SPLITS}
    shown = ", ".join(f"{count:,} {split}" for split, count in totals.items() if count)
    screen.say(f"{len(manifest.segments)} segment(s) are prepared in {config.data.work}; {unit}: {shown}")
    if others:
        screen.say(f"this preparation: {chain}")
        screen.say(f"of the same sources by other rules, tokenizer or weights: {', '.join(others)}")


def tell_recall(config: RunConfig) -> list[tuple[float, float]]:
    """Of pairs this similar, the share that is found; from just below the threshold on. None if nothing is compared."""
    near = config.prepare.dedup.near if config.prepare.dedup else None
    if near is None:
        return []
    from orchestrator.prepare.near.bands import recall_curve
    from orchestrator.prepare.near.documents import NearRules

    return [(s, r) for s, r in recall_curve(NearRules.of(near)) if s >= near.threshold]


def show_funnels(funnels: "Sequence[Funnel]", screen: Screen) -> None:
    """What became of the samples of each source and split, a table a source; nothing if none was dropped."""
    if any(funnel.dropped for funnel in funnels):
        for source, of_source in groupby(funnels, key=lambda funnel: funnel.source):
            screen.console.print(_tabulate(source, list(of_source)))


def _tabulate(source: str, funnels: "Sequence[Funnel]") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(Text(source), overflow="fold")
    for funnel in funnels:
        table.add_column(funnel.split, justify="right", no_wrap=True)
    table.add_row("in", *(f"{funnel.samples:,}" for funnel in funnels))
    for rule in sorted({rule for funnel in funnels for rule in funnel.dropped}):
        table.add_row(Text(rule), *(f"-{funnel.dropped[rule]:,}" if funnel.dropped[rule] else "" for funnel in funnels))
    table.add_row("kept", *(f"{funnel.kept:,}" for funnel in funnels))
    if any(funnel.tokens for funnel in funnels):
        table.add_row("tokens", *(f"{funnel.tokens:,}" for funnel in funnels))
    return table


def explain_here(
    path: Path, overlays: Sequence[Path], sets: Sequence[str], key: str, screen: Screen, *, texts: bool, as_json: bool
) -> None:
    """Why a sample is kept or dropped. Reads what is prepared; starts nothing."""
    from orchestrator.prepare.explain import explain

    found = explain(load_checked(path, overlays, sets), key, texts=texts)
    if as_json:
        print(json.dumps({"format": 1, "samples": [one.as_json() for one in found]}, ensure_ascii=False))
        return
    for one in found:
        verdict = f"dropped: {one.rule}" if one.rule else "kept"
        because = f" ({one.reason})" if one.reason else ""
        partner = f", of {one.partner}, similarity {one.score:.4f}" if one.partner else ""
        screen.say(f"{one.sample} [{one.split}] {verdict}{because}{partner}")
        for title, text in ((one.sample, one.text), (one.partner, one.partner_text)):
            if text is not None:
                screen.say(f"--- {title}\n{text}")


@contextmanager
def _on_ray(config: RunConfig) -> Iterator[None]:
    with reached_cluster(config, Path(config.root) / config.name, trains=False) as cluster, cluster.connected():
        yield
