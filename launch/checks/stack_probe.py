"""Imports torch and DeepSpeed in a process of its own and tells what they say, one JSON object a line, for
stack.py to read. What the libraries print themselves goes to stderr."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def probe_torch() -> dict[str, Any]:
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    found: dict[str, Any] = {"version": torch.__version__, "cuda": torch.version.cuda, "cuda_home": CUDA_HOME}
    if torch.version.cuda is None:
        return found
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return found | {"trouble": first_line(error)}
    return found | {
        "trouble": "",
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
        "devices": [try_device(i) for i in range(torch.cuda.device_count())],
    }


def try_device(index: int) -> str:
    """Empty when a kernel of this build runs there: the device may be lost, taken, or too old or new for the build."""
    import torch

    try:
        torch.ones(2, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        return first_line(error)
    return ""


def probe_deepspeed() -> dict[str, Any]:
    from orchestrator.train.engine import describe_deepspeed

    return describe_deepspeed()


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def main() -> None:
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        probes: dict[str, Callable[[], dict[str, Any]]] = {"torch": probe_torch, "deepspeed": probe_deepspeed}
        for name, probe in probes.items():
            try:
                found = probe()
            except Exception as error:  # noqa: BLE001 (a broken installation may raise anything while it is imported)
                found = {"error": f"{type(error).__name__}: {first_line(error)}"}
            print(json.dumps({name: found}), file=out, flush=True)
    sys.stderr.flush()


if __name__ == "__main__":
    main()
