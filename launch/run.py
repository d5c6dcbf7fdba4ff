"""`longhaul run` and `longhaul resume`: everything that can be checked is checked, the data is prepared, a detached
controller is put in charge, and the run is followed by reading its files."""

import importlib.metadata
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

from launch.ahead import show_funnels
from launch.cluster import reached_cluster
from launch.environment import has_wandb_key
from launch.follow import Follower
from launch.here import find_run
from launch.loading import load_checked
from launch.paths import with_absolute_paths
from launch.planning import (
    as_json,
    check_it_fits,
    check_world_sizes,
    describe_cached,
    expected_device,
    gib,
    know_memory,
    main_source,
    memory_of_a_rank,
    plan_lanes,
    plan_worlds,
    tell_new_tensors,
)
from launch.screen import RUN_DIRECTORY, Screen, show_summary
from launch.shelves import check_checkpoints_moved, check_shelf_is_free
from launch.signals import LEAVING, heeding
from orchestrator.config.compare import check_resume, run_hash
from orchestrator.config.data import DataSection
from orchestrator.config.load import load_config
from orchestrator.config.resolve import Decision, Facts, keep_decided, resolve_run, undecide
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.core.clock import SystemClock
from orchestrator.core.dotted import look_for_code_in
from orchestrator.core.errors import BadInput, DataError
from orchestrator.core.words import ExitCode, RunState
from orchestrator.data.feeding.growing import validated_on
from orchestrator.data.ordering.length import resolve_length
from orchestrator.data.ordering.order import ValidationOrder
from orchestrator.data.shards.manifest import Manifest
from orchestrator.prepare.funnel import count_funnels
from orchestrator.prepare.run import prepare
from orchestrator.storage.publish import publish_bytes, publish_json, read_json
from orchestrator.storage.stores import StoreSettings, open_stores
from orchestrator.tracking.rundir import RunDir, RunView
from orchestrator.train.memory import optimizer_states
from orchestrator.train.models.description import ModelDescription
from orchestrator.train.optim.groups import check_patterns


def run(
    config_path: Path, overlays: Sequence[Path], sets: Sequence[str], screen: Screen, *, or_resume: bool = False
) -> ExitCode:
    return begin(load_checked(config_path, overlays, sets), screen, or_resume=or_resume)


def begin(config: RunConfig, screen: Screen, *, or_resume: bool = False) -> ExitCode:
    """Begin a run; with `or_resume` go on with it when it is there already, so that the command can be repeated."""
    run_dir = RunDir(Path(config.root) / config.name)
    if or_resume and run_dir.path.exists():
        return _go_on(find_run(str(run_dir.path), Path(config.root)), lambda base: keep_decided(config, base), screen)
    run_dir.refuse_if_taken()
    check_root(Path(config.root))
    check_sources(config.data)
    check_shelf_is_free(config, run_dir)
    return _drive(config, run_dir, screen, earlier=None)


def resume(name: str, root: Path, overlays: Sequence[Path], sets: Sequence[str], screen: Screen) -> ExitCode:
    """Go on with a run, on the same or another world; attach to it when it lives."""
    run_dir = find_run(name, root)
    if (sets or overlays) and _is_held(run_dir.view()):
        raise BadInput("the run is alive", where=str(run_dir.path), remedy="stop it before changing its config")
    return _go_on(run_dir, lambda base: with_absolute_paths(_overlaid(base, run_dir, overlays, sets)), screen)


def _go_on(run_dir: RunDir, change: Callable[[RunConfig], RunConfig], screen: Screen) -> ExitCode:
    """`change` makes the config to go on with from the one the run was begun with."""
    stored = load_config(run_dir.config).config
    view = run_dir.view()
    if view.state is RunState.DONE:
        _changed(run_dir, stored, change)  # refuses what would have made another run of it
        why = f", {view.reason}" if view.reason else ""
        screen.say(f"{run_dir.path.name} is done: {view.step} of {stored.train.num_steps} steps{why}")
        return ExitCode.DONE
    if _is_held(view):
        screen.say(f"{RUN_DIRECTORY}{run_dir.path}")
        code = _follow(run_dir, stored, screen, after_generation=view.generation - 1)
        view = run_dir.view()
        if view.state.ended:
            return code
    return _drive(_changed(run_dir, stored, change), run_dir, screen, earlier=view)


def _changed(run_dir: RunDir, stored: RunConfig, change: Callable[[RunConfig], RunConfig]) -> RunConfig:
    """The config to go on with, if it describes the same run."""
    decided = [Decision(**decision) for decision in read_json(run_dir.plan)["decisions"]]
    base = undecide(stored, decided)
    config = change(base)
    check_resume(base, config)
    check_checkpoints_moved(base, config, run_dir)
    return config


@dataclass(frozen=True, slots=True)
class Copy:
    """What makes a copy of a run, in a directory of its own."""

    of: RunDir | None  # None: of a run that has not begun
    fill: Callable[[Path], None]  # puts into the directory what is of the copy alone


def train_copy(config: RunConfig, copy: Copy, run_dir: RunDir, screen: Screen) -> ExitCode:
    run_dir.refuse_if_taken()
    return _drive(config, run_dir, screen, earlier=None, copy=copy)


def _drive(
    config: RunConfig, run_dir: RunDir, screen: Screen, earlier: RunView | None, copy: Copy | None = None
) -> ExitCode:
    """Start or join Ray, prepare, plan, put a controller in charge, follow."""
    after = earlier.generation if earlier is not None else 0
    look_for_code_in(config.code)
    check_compiling(config)
    with heeding(LEAVING), reached_cluster(config, run_dir.path, trains=True) as cluster:
        with cluster.connected(run_dir.path):
            config = _begin(config, run_dir, cluster.address, screen, earlier, copy)
        return _follow(run_dir, config, screen, after_generation=after)


def _begin(
    config: RunConfig,
    run_dir: RunDir,
    address: str,
    screen: Screen,
    earlier: RunView | None,
    copy: Copy | None,
) -> RunConfig:
    """Everything up to a controller in charge; returns the config with its decisions."""
    from orchestrator.control.charge import Charge
    from orchestrator.control.controller import start_controller
    from orchestrator.control.jobs import RunHandle

    screen.say(f"{RUN_DIRECTORY}{run_dir.path}")
    begun = run_dir if earlier is not None else copy.of if copy is not None else None
    ready = make_ready(config, begun, screen)
    write_run_files(run_dir, ready, copy.fill if copy is not None else None, is_new=earlier is None)
    chain, hashed = ready.manifest.chain_id, ready.plan["hash"]
    about = {"chain": chain, "longhaul": importlib.metadata.version("longhaul"), "hash": hashed}
    start_controller(
        Charge(
            run=RunHandle(path=run_dir.path, key=run_dir.key),
            address=address,
            facts=ready.facts,
            about=about,
            after_generation=earlier.generation if earlier is not None else 0,
        )
    )
    return ready.config


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """All that a run directory says, before it is there."""

    config: RunConfig  # with its decisions
    manifest: Manifest
    facts: Facts
    plan: dict[str, Any]


def make_ready(config: RunConfig, begun: RunDir | None, screen: Screen) -> Ready:
    """Prepare the data and decide everything, on the connected cluster. `begun`: the run that goes on."""
    manifest = _have_prepared(config, read_json(begun.manifest) if begun is not None else None, screen)
    if begun is None and not manifest.segments_to_come:
        show_funnels(count_funnels(manifest), screen)
    facts = gather_facts(config, manifest)
    config, decisions = decide(config, facts, manifest)
    if begun is not None:  # what is decided from the same data must be the same
        check_resume(load_config(begun.config).config, config)
    vocab_size = manifest.tokenizer.vocab_size if config.reads_tokens else None
    description = describe_cached(config, vocab_size, begins=begun is None)
    tell_new_tensors(description, screen)
    facts = know_memory(config, facts, vocab_size, description)
    plan = make_plan(config, facts, decisions, manifest, description)
    return Ready(config=config, manifest=manifest, facts=facts, plan=plan)


def _have_prepared(config: RunConfig, stored: dict[str, Any] | None, screen: Screen) -> Manifest:
    """The data to begin with, or of an earlier run what its manifest.json (`stored`) names and expects."""
    from orchestrator.control.fleet import run_all

    named = stored["segments"] if stored is not None else []
    most = max(1, len(named)) if config.prepare.mode == "ahead" else None
    with screen.preparing() as progress:
        manifest = prepare(config, run_all, progress, most)
    if stored is not None:
        manifest.check_prefix(named)
        manifest = manifest.first(stored.get("expected", len(named)))
    count, to_come = len(manifest.segments), manifest.segments_to_come
    if to_come and most is None:
        raise DataError(
            f"the sources make {count} segments; there were shards for {count + to_come} when the run began",
            where="data.train",
            remedy="put the shards back that are gone",
        )
    if to_come:
        screen.say(f"{count} of {count + to_come} segments are prepared, the others will be while ranks train")
    if config.evaluate.every_steps:
        ValidationOrder.of(config, validated_on(config, manifest))  # refuses an empty one before there is a run
    return manifest


def _follow(run_dir: RunDir, config: RunConfig, screen: Screen, after_generation: int) -> ExitCode:
    started = time.monotonic()
    code = Follower(run_dir, config.train, screen.console, after_generation).follow()
    if code is ExitCode.DONE and run_dir.excerpt() is None:
        show_summary(screen.console, run_dir, config, time.monotonic() - started)
    return code


def write_run_files(run_dir: RunDir, ready: Ready, add: Callable[[Path], None] | None, *, is_new: bool) -> None:
    """`add` puts more into the directory before it is one."""

    def fill(folder: Path) -> None:
        if add is not None:
            add(folder)
        publish_bytes(folder / "config.yaml", dump_yaml(ready.config).encode())
        publish_json(folder / "plan.json", ready.plan)
        ready.manifest.write(folder / "manifest.json")

    if is_new:
        run_dir.create(fill)
        return
    run_dir.forget_requests()
    fill(run_dir.path)


def decide(config: RunConfig, facts: Facts, manifest: Manifest) -> tuple[RunConfig, list[Decision]]:
    """Everything that holds for the whole run, its length too."""
    config, decisions = resolve_run(config, facts)
    config, of_length = resolve_length(config, manifest)
    return config, [*decisions, *of_length]


def make_plan(
    config: RunConfig, facts: Facts, decisions: Sequence[Decision], manifest: Manifest, description: ModelDescription
) -> dict[str, Any]:
    """plan.json: every decision with its reason, and what the chosen worlds need. Raises DoesNotFit."""
    check_world_sizes(config, facts)
    check_patterns(config.optim, description)
    nodes = sorted({config.cluster.nodes.min, config.cluster.nodes.max})
    rows = plan_worlds(config, facts, description, nodes)
    check_it_fits(config, rows[0], memory_of_a_rank(config, config.cluster.device))
    check_free_space(config, description)
    worlds = [decision for row in rows for decision in row.plan.decisions]
    return {
        "format": 1,
        "hash": run_hash(config),
        "decisions": [asdict(decision) for decision in (*decisions, *worlds)],
        "facts": asdict(facts),
        "lanes": asdict(plan_lanes(config, [shards.size for shards in manifest.segments_of(main_source(config))])),
        "parameters": description.num_parameters,
        "inexact": description.inexact,
        "begins_anew": description.begins_anew,
        "worlds": as_json(rows),
    }


def gather_facts(config: RunConfig, manifest: Manifest) -> Facts:
    """What the decisions depend on, from the connected cluster, the data and the environment."""
    from orchestrator.control.connect import alive_nodes

    nodes = alive_nodes()
    with_gpus = [node for node in nodes if node.gpus >= config.cluster.ranks_per_node]
    with_cpus = [node for node in nodes if node.cpus]  # heads are often started without
    return Facts(
        device="cuda" if with_gpus else "cpu",
        cpus_per_node=min(node.cpus for node in with_gpus or with_cpus or nodes),
        remote=any("://" in root for root in manifest.roots.values()),
        sample_bytes=manifest.sample_bytes,
        wandb_key=has_wandb_key(),
        node_bytes=min(node.memory_bytes for node in with_gpus or with_cpus or nodes),
    )


def check_root(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise BadInput(
            f"cannot be written to: {error.strerror}", where=f"root={root}", remedy="choose another root"
        ) from error


def check_compiling(config: RunConfig) -> None:
    """What can be known here; ranks on other machines look for themselves before they begin."""
    if config.train.compile and config.cluster.address == "local":
        from orchestrator.train.compile import check_compilers

        check_compilers(expected_device(config))


def check_sources(data: DataSection) -> None:
    """A folder that is not there is refused before Ray starts. What is in one shows when it is listed."""
    stores = open_stores(StoreSettings.of(data))
    for i, source in enumerate(data.train):
        looked_up = stores.is_remote(source.path) or has_magic(source.path) or source.demo is not None
        if not looked_up and not Path(source.path).exists():
            stores.list(source.path, f"data.train[{i}].path")


def check_free_space(config: RunConfig, description: ModelDescription) -> None:
    """A checkpoint that is kept and the next one beside it must have room, unless they go into a store."""
    if config.checkpoint.store is not None:
        return
    one = 4 * (1 + optimizer_states(config.optim)) * description.num_parameters
    free = shutil.disk_usage(config.root).free
    if free < 2 * one:
        raise BadInput(
            f"has {gib(free)} free, and two checkpoints of this model need {gib(2 * one)}",
            where=f"root={config.root}",
            remedy="make room there, or choose another root",
        )


def _overlaid(config: RunConfig, run_dir: RunDir, overlays: Sequence[Path], sets: Sequence[str]) -> RunConfig:
    """The run's own config with overlays and `a.b=c` on top."""
    base = run_dir.path / ".resume.yaml"
    publish_bytes(base, dump_yaml(config).encode())
    try:
        return load_config(base, overlays, sets).config
    finally:
        base.unlink()


def _is_held(view: RunView) -> bool:
    """The run has not ended, and a controller lives on this host, or claimed it or renewed its lease a moment ago."""
    return not view.state.ended and view.lease is not None and not view.lost(SystemClock())
