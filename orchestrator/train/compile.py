"""train.compile: torch.compile for the module of an engine. Called by engine.py, once the engine has its hooks."""

import importlib.util
import os
import shutil

import torch
from torch import nn

from orchestrator.core.errors import ConfigError


def compile_in_place(module: nn.Module, device: str) -> None:
    """The module stays what it is, so that its parameters keep their names; only calling it is another thing.

    Compiled when it is first called, and again for training, evaluation and other shapes."""
    check_compilers(torch.device(device).type)
    module.compile()


def forget_compiled() -> None:
    """Compiled code holds on to the module that it was made for."""
    torch.compiler.reset()


def check_compilers(device_type: str) -> None:
    """What torch.compile calls on this kind of device must be there, before anybody waits for it."""
    named, usual = ("CC", ("gcc", "clang")) if device_type == "cuda" else ("CXX", ("g++",))
    wanted = (os.environ[named],) if named in os.environ else usual
    missing = [] if any(map(shutil.which, wanted)) else [f"a compiler ({' or '.join(wanted)})"]
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        missing.append("triton")
    if missing:
        raise ConfigError(
            f"torch.compile needs {' and '.join(missing)}, which this machine does not have",
            where="train.compile",
            remedy=f"install it on every node, or name a compiler by {named}; or train.compile=false",
        )
