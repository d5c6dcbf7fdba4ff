"""The files of one of DeepSpeed's checkpoints, opened without running anything that is in them.

They are pickles: torch unpickles plain values alone, and a few of DeepSpeed's classes, for which stand-ins without
behaviour are taken. Tensors are mapped, not read. deepspeed_state.py makes sense of them."""

import pickle
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from orchestrator.core.errors import DataError

LATEST = "latest"
STAND_INS: list[Any] = [  # what is built in place of a class of this name
    (SimpleNamespace, "deepspeed.utils.tensor_fragment.fragment_address"),
    (SimpleNamespace, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (SimpleNamespace, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]
_RANK = re.compile(r"zero_pp_rank_(\d+)_mp_rank_00_")


@dataclass(frozen=True)
class ZeroFiles:
    """`models` has one file below ZeRO-3 and one a rank there; `optimizers` is empty without ZeRO. By rank."""

    folder: Path
    models: list[Path]
    optimizers: list[Path]

    @property
    def cuts_parameters(self) -> bool:
        """ZeRO-3: every rank's file of the model holds parts."""
        return self.models[0].name.startswith("zero_pp_rank_")

    @cached_property
    def first(self) -> dict[str, Any]:
        """What rank 0 wrote of the model."""
        return load_file(self.models[0])


def find_files(folder: Path) -> ZeroFiles:
    """Of a checkpoint's own folder, or of one with `latest`, which names it."""
    latest = folder / LATEST
    if latest.is_file():
        folder = folder / Path(latest.read_text().strip()).name
    where = str(folder)
    if (folder / "zero").is_dir():
        raise DataError("is a universal checkpoint", where=where, remedy="import the one that it was made of")
    models = sorted(folder.glob("*_model_states.pt"), key=_rank_of)
    optimizers = sorted(folder.glob("*_optim_states.pt"), key=_rank_of)
    if not models:
        raise DataError(
            "holds no *_model_states.pt of DeepSpeed",
            where=where,
            remedy="give the folder that save_checkpoint wrote, or the one above it, with the file latest",
        )
    strange = [path.name for path in (*models, *optimizers) if "mp_rank_00" not in path.name or "expert" in path.name]
    if strange:
        raise DataError(
            f"its tensors are cut by model or expert parallelism ({strange[0]}), of which Longhaul knows nothing",
            where=where,
            remedy="train it with ZeRO alone, or begin with its weights: zero_to_fp32.py makes model.weights of them",
        )
    return ZeroFiles(folder, models, optimizers)


def load_file(path: Path) -> dict[str, Any]:
    """Its tensors are views of the mapped file."""
    try:
        with safe_globals(STAND_INS):
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(f"is not read, since {_find_reason(path, error)}", where=str(path)) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(f"cannot be read: {str(error).partition(chr(10))[0]}", where=str(path)) from error
    if not isinstance(content, dict):
        raise DataError(f"holds a {type(content).__name__}, no checkpoint of DeepSpeed", where=str(path))
    return content


def _find_reason(path: Path, error: pickle.UnpicklingError) -> str:
    """Which classes it names that are not plain values."""
    known = {name for _, name in STAND_INS}
    try:
        strange = sorted(set(get_unsafe_globals_in_checkpoint(path)) - known)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError):
        strange = []
    if not strange:
        return f"it is no file of torch.save: {str(error).partition(chr(10))[0]}"
    return f"loading it would run {', '.join(strange)}: only plain values and tensors are taken from such a file"


def _rank_of(path: Path) -> int:
    match = _RANK.search(path.name)
    return int(match[1]) if match else 0
