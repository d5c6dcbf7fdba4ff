"""`longhaul export`: the model of a checkpoint as a directory that others read. The run may be training meanwhile."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.screen import Screen
from orchestrator.checkpoint.choose import choose_checkpoint
from orchestrator.checkpoint.found import list_checkpoints
from orchestrator.checkpoint.shelf import open_shelf
from orchestrator.config.load import load_config
from orchestrator.core.dotted import look_for_code_in
from orchestrator.core.errors import BadInput
from orchestrator.data.shards.manifest import Manifest
from orchestrator.storage.publish import flush_folder, writing
from orchestrator.tracking.rundir import RunDir

DTYPES = ("fp32", "bf16", "fp16")
GB = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportWish:
    checkpoint: str = "last"  # best, last, or a step
    output: Path | None = None  # None: in the run directory
    dtype: str | None = None  # None: what the run computed with
    shard_gb: float = 5.0


def export(run_dir: RunDir, wish: ExportWish, screen: Screen, *, as_json: bool) -> None:
    """What can be refused is refused before anything heavy is loaded."""
    if wish.dtype is not None and wish.dtype not in DTYPES:
        raise BadInput(f"is none of {', '.join(DTYPES)}", where=f"--dtype {wish.dtype}")
    config, manifest = load_config(run_dir.config).config, Manifest.load(run_dir.manifest)
    look_for_code_in(config.code)
    found = list_checkpoints(open_shelf(config, run_dir.checkpoints))
    checkpoint = choose_checkpoint(found, wish.checkpoint, config.evaluate.best_by)
    output = (wish.output or run_dir.path / "exports" / f"step-{checkpoint.step}").absolute()
    if output.exists():
        raise BadInput("is there already", where=str(output), remedy="remove it, or name another by --output")
    from orchestrator.train.exchange.huggingface import Wish, export_model
    from orchestrator.train.start import open_checkpoint_of

    reader = open_checkpoint_of(config, manifest, checkpoint.path)
    tokenizer = manifest.tokenizer if config.reads_tokens else None
    wanted = Wish(dtype=wish.dtype, shard_bytes=int(wish.shard_gb * GB))
    try:
        with filling(output) as part:
            exported = export_model(config, tokenizer, reader, part, wanted)
    finally:
        reader.close()
    if as_json:
        told = {"format": 1, "run": run_dir.path.name, "step": checkpoint.step, "output": str(output)}
        print(json.dumps(told | asdict(exported)))
        return
    size = f"{exported.tensors} tensors, {exported.size_bytes / GB:.3f} GB in {exported.dtype}"
    screen.say(f"{checkpoint.name}: {size}")
    screen.say(str(output))


@contextmanager
def filling(output: Path) -> Iterator[Path]:
    """A folder that becomes `output`, whole or not at all."""
    with writing(output, "choose another --output, or make room there"):
        output.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        try:
            yield part
            part.chmod(0o755)
            part.rename(output)
        except BaseException:
            shutil.rmtree(part)
            raise
        flush_folder(output.parent)
