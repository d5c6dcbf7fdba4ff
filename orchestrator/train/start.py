"""Where training starts from: the updates already done, and the fragments to fill the engine with. Before loop.py."""

import os

import torch

from orchestrator.checkpoint.fragments import FragmentSource
from orchestrator.checkpoint.reader import StateReader, open_checkpoint
from orchestrator.checkpoint.shelf import Address
from orchestrator.config.compare import run_hash
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError
from orchestrator.data.shards.manifest import Manifest
from orchestrator.storage.stores import StoreSettings
from orchestrator.train.job import TrainJob
from orchestrator.train.models.initial import initial_source


def open_start(job: TrainJob) -> tuple[int, FragmentSource]:
    """The updates already done, and where the state comes from."""
    if job.start is None:
        return 0, initial_source(job.config, vocab_size(job.config, job.manifest))
    reader = open_checkpoint_of(job.config, job.manifest, job.start)
    return reader.step, reader


def open_checkpoint_of(config: RunConfig, manifest: Manifest, address: Address) -> StateReader:
    """A checkpoint of the very run that config and manifest define."""
    reader = open_checkpoint(address, StoreSettings.of(config.data))
    manifest.check_prefix(list(reader.facts.chain))
    if reader.facts.config_hash != run_hash(config):
        raise ConfigError(
            f"{address} belongs to a run with other identity keys",
            where="checkpoint",
            remedy="resume it with the config it was made with, or start a new run",
        )
    return reader


def known_validations(source: FragmentSource) -> tuple[dict[str, float], ...]:
    """What a checkpoint knows of the validations before it."""
    return source.facts.validations if isinstance(source, StateReader) else ()


def vocab_size(config: RunConfig, manifest: Manifest) -> int | None:
    """What the model must know; None where it is fed no tokens."""
    return manifest.tokenizer.vocab_size if config.reads_tokens else None


def use_deterministic_kernels() -> None:
    """train.deterministic. On the CPU all kernels are so anyway."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it first needs a workspace
    torch.use_deterministic_algorithms(True)
