"""Where a run's checkpoints lie; and, before it begins or goes on, whether they are there and nobody else's."""

from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.shelf import Shelf, open_shelf
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import BadInput
from orchestrator.tracking.rundir import RunDir


def shelf_of_run(run_dir: RunDir) -> Shelf:
    return open_shelf(load_config(run_dir.config).config, run_dir.checkpoints)


def check_shelf_is_free(config: RunConfig, run_dir: RunDir) -> None:
    """Of a run that is about to begin: a store may have served another run of its name before."""
    shelf = open_shelf(config, run_dir.checkpoints)
    if shelf.list():
        raise BadInput(
            "holds checkpoints of another run already",
            where=shelf.where(""),
            remedy="choose another name by `name=...`, or another checkpoint.store",
        )


def check_checkpoints_moved(stored: RunConfig, config: RunConfig, run_dir: RunDir) -> None:
    """Of a run that goes on with another checkpoint.store: from an empty one it would begin at step 0 again."""
    if stored.checkpoint.store == config.checkpoint.store:
        return
    before, after = (open_shelf(one, run_dir.checkpoints) for one in (stored, config))
    if _newest_step(before) > _newest_step(after):
        raise BadInput(
            f"the newest checkpoint, of step {_newest_step(before)}, lies in {before.where('')} and not here",
            where=f"checkpoint.store: {after.where('')}",
            remedy=f"longhaul checkpoint copy {run_dir.path} {after.where('')}",
        )


def _newest_step(shelf: Shelf) -> int:
    return max((one.step for one in list_checkpoints(shelf) if not one.problem), default=0)
