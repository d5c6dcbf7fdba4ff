"""`longhaul verify` and `longhaul ledger`: the proof that a run fed what its definition says, and what it fed."""

from collections.abc import Iterator
from typing import Any

from launch.screen import Screen
from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.found import verify as verify_checkpoint
from orchestrator.config.load import load_config
from orchestrator.core.errors import BadInput, NotVerified
from orchestrator.data.audit import FedUnits, compare_ledger, prove_epochs, readable_keys, recompute
from orchestrator.data.manifest import Manifest
from orchestrator.data.order import Order
from orchestrator.data.read import TokenReader
from orchestrator.data.skips import Skips
from orchestrator.tracking.keys import read_keys
from orchestrator.tracking.rows import read_ledger, read_metrics
from orchestrator.tracking.rundir import RunDir


def verify(run_dir: RunDir, against: RunDir | None, screen: Screen) -> None:
    """Raises NotVerified with everything that does not hold."""
    problems = [*_check_ledger(run_dir, screen), *_check_checkpoints(run_dir, screen)]
    if against is not None:
        problems += _compare_runs(run_dir, against, screen)
    if problems:
        raise NotVerified("\n".join(problems), where=str(run_dir.path))


def _check_ledger(run_dir: RunDir, screen: Screen) -> Iterator[str]:
    """Every step's two sums, made again from config, manifest and skips."""
    config, manifest = load_config(run_dir.config).config, Manifest.load(run_dir.manifest)
    rows = read_ledger(run_dir.path)
    steps = sorted(rows)
    if steps != list(range(len(steps))):
        missing = sorted(set(range(steps[-1] + 1)) - set(steps))
        yield f"ledger.jsonl has no row of step {missing[0]}"
    metrics = {row["step"] for row in read_metrics(run_dir.path)}
    if metrics - set(steps):
        yield f"metrics.jsonl tells of step {min(metrics - set(steps))}, ledger.jsonl does not"
    order = Order.of(config, manifest)
    skips = Skips.load(run_dir.skips) if run_dir.skips.exists() else Skips()
    reader, fed = TokenReader(manifest, "train"), FedUnits()
    difference = compare_ledger(rows.values(), recompute(order, reader, skips, steps, fed))
    if difference is not None:
        yield f"ledger: {difference}"
        return
    screen.say(f"ledger: {len(steps)} steps fed what the run's definition says")
    for proof in prove_epochs(order, reader, fed):
        name = manifest.source_names[proof.source]
        if proof.holds:
            screen.say(f"epoch {proof.epoch} of {name}: {proof.rows} sequences hold every kept document once")
        else:
            yield f"epoch {proof.epoch} of {name}: its sequences are not the kept documents, each once"


def _check_checkpoints(run_dir: RunDir, screen: Screen) -> Iterator[str]:
    found = list_checkpoints(run_dir.checkpoints)
    damaged = [problem for one in found for problem in verify_checkpoint(one.path)]
    yield from damaged
    if not damaged:
        screen.say(f"checkpoints: {len(found)} are whole")


def _compare_runs(run_dir: RunDir, other: RunDir, screen: Screen) -> Iterator[str]:
    """Ledger and losses step by step. Losses are equal on one world, and close on two: the distance is told."""
    ledger, other_ledger = read_ledger(run_dir.path), read_ledger(other.path)
    common = sorted(ledger.keys() & other_ledger.keys())
    if not common:
        yield f"{other.path} has no step in common"
        return
    digests = ("order_digest", "set_digest", "count")
    for step in common:
        if any(ledger[step][name] != other_ledger[step][name] for name in digests):
            yield f"step {step}: the two runs fed other samples"
            break
    losses, others = _losses(run_dir), _losses(other)
    apart = max((abs(losses[step] - others[step]), step) for step in common)
    screen.say(f"against {other.path.name}: {len(common)} common steps; largest difference of losses {apart[0]:.3g}")


def _losses(run_dir: RunDir) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(run_dir.path)}


def ledger_rows(run_dir: RunDir, steps: range | None) -> Iterator[dict[str, Any]]:
    """What each step fed: keys when data.ledger is `keys`, otherwise the two sums."""
    rows = read_ledger(run_dir.path)
    chosen = [step for step in sorted(rows) if steps is None or step in steps]
    keys = read_keys(run_dir.path, chosen)
    manifest = Manifest.load(run_dir.manifest) if keys else None
    for step in chosen:
        if manifest is not None and step in keys:
            yield {"step": step, "keys": readable_keys(manifest, dict(enumerate(keys[step])))}
        else:
            yield {name: rows[step][name] for name in ("step", "order_digest", "set_digest", "count")}


def parse_steps(text: str) -> range:
    """A:B, B not included."""
    first, colon, last = text.partition(":")
    if not colon or not first.isdigit() or not last.isdigit() or int(first) >= int(last):
        raise BadInput("is not A:B with A below B", where=f"--steps {text}", remedy="for example --steps 0:10")
    return range(int(first), int(last))
