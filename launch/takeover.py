"""`longhaul checkpoint import`: a new run that goes on with what DeepSpeed has trained. Its directory is that of a run
which was stopped at that step: config, plan, manifest, a journal and one checkpoint; `longhaul resume` goes on."""

import json
from collections.abc import Sequence
from pathlib import Path

from launch.cluster import reached_cluster
from launch.loading import load_checked
from launch.planning import planned_vocab
from launch.run import check_root, check_sources, make_ready, write_run_files
from launch.screen import RUN_DIRECTORY, Screen
from launch.shelves import check_shelf_is_free
from launch.signals import LEAVING, heeding
from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.shelf import open_shelf
from orchestrator.config.run import RunConfig
from orchestrator.core.clock import Clock, SystemClock
from orchestrator.core.dotted import look_for_code_in
from orchestrator.core.words import ExitCode
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.rundir import RunDir

GENERATION = 1  # of the import, which claims it: the run goes on with the next


def import_checkpoint(
    source: Path, config_path: Path, overlays: Sequence[Path], sets: Sequence[str], screen: Screen, *, as_json: bool
) -> None:
    """Everything that can be refused is refused before data is prepared."""
    config = load_checked(config_path, overlays, sets)
    run_dir = RunDir(Path(config.root) / config.name)
    run_dir.refuse_if_taken()
    check_root(Path(config.root))
    check_sources(config.data)
    check_shelf_is_free(config, run_dir)
    look_for_code_in(config.code)
    from orchestrator.train.exchange.deepspeed import open_deepspeed, take_in

    for difference in open_deepspeed(source, config, planned_vocab(config)).differences:
        screen.say(difference)
    reached = reached_cluster(config, run_dir.path, trains=False)
    with heeding(LEAVING), reached as cluster, cluster.connected(run_dir.path):
        ready = make_ready(config, None, screen)
    vocab_size = ready.manifest.tokenizer.vocab_size if config.reads_tokens else None
    state = open_deepspeed(source, ready.config, vocab_size).state  # as it was decided now

    clock = SystemClock()
    began = clock.monotonic()

    def fill(folder: Path) -> None:
        shelf = open_shelf(ready.config, folder / run_dir.checkpoints.name)
        take_in(state, ready.config, ready.manifest.ids, shelf, GENERATION)

    write_run_files(run_dir, ready, fill, is_new=True)
    tell_of_it(run_dir, ready.config, source, clock, seconds=clock.monotonic() - began)
    if as_json:
        print(json.dumps({"format": 1, "run": str(run_dir.path), "step": state.step}))
        return
    screen.say(f"{RUN_DIRECTORY}{run_dir.path}")
    screen.say(f"{state.step} steps are done; `longhaul resume {run_dir.path.name}` goes on")


def tell_of_it(run_dir: RunDir, config: RunConfig, source: Path, clock: Clock, *, seconds: float) -> None:
    """The journal of a run that was stopped with this checkpoint."""
    [made] = list_checkpoints(open_shelf(config, run_dir.checkpoints))
    journal = Journal.claim(run_dir.events, clock)
    journal.append("imported", source=str(source.absolute()), step=made.step)
    journal.append("checkpoint", step=made.step, folder=made.name, seconds=seconds, size_bytes=made.size_bytes)
    journal.append("stopped", step=made.step, exit_code=int(ExitCode.STOPPED), reason=f"imported from {source}")
    journal.close()
