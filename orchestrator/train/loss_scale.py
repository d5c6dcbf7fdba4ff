"""The loss scale of fp16, out of and into DeepSpeed's objects that let it change. Used by look.py and reshard.py."""

from collections.abc import Mapping
from typing import Any

# Our names for the fields of DeepSpeed's dynamic loss scalers (fp16); only stages 1 to 3 know hysteresis.
LOSS_SCALE_FIELDS = {
    "loss_scale": "cur_scale",
    "loss_scale_iteration": "cur_iter",
    "last_overflow_iteration": "last_overflow_iter",
    "hysteresis": "cur_hysteresis",
}


def read_loss_scale(optimizer: Any) -> dict[str, float]:
    scaler = _dynamic_scaler(optimizer)
    present = {ours: theirs for ours, theirs in LOSS_SCALE_FIELDS.items() if hasattr(scaler, theirs)}
    return {ours: float(getattr(scaler, theirs)) for ours, theirs in present.items()}


def write_loss_scale(optimizer: Any, kept: Mapping[str, float]) -> None:
    scaler = _dynamic_scaler(optimizer)
    for ours, theirs in LOSS_SCALE_FIELDS.items():
        if ours in kept and hasattr(scaler, theirs):
            setattr(scaler, theirs, kept[ours] if ours == "loss_scale" else int(kept[ours]))


def _dynamic_scaler(optimizer: Any) -> Any:
    """DeepSpeed's object that holds a changing loss scale; None when the scale never changes (fp32, bf16)."""
    scaler = getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)
    dynamic = getattr(scaler, "dynamic", False) or getattr(scaler, "dynamic_loss_scale", False)
    return scaler if dynamic else None
