"""From config and manifest to a maker of batches: the one place that knows what a task is fed with.

Between order.py and stream.py. Training, validation and benchmarks all take their batches from here."""

from orchestrator.config.run import RunConfig
from orchestrator.data.decoding.fields import Decoding, LastStep
from orchestrator.data.decoding.table import Figures, RowReader
from orchestrator.data.decoding.texts import TextReader
from orchestrator.data.decoding.workers import Decoders, OwnProcess, WorkerProcesses
from orchestrator.data.feeding.batch import BatchMaker
from orchestrator.data.feeding.packed import PackedBatches
from orchestrator.data.feeding.read import TokenReader
from orchestrator.data.feeding.sampled import SampledBatches
from orchestrator.data.feeding.samples import SampleReader
from orchestrator.data.ordering.order import SlotOrder
from orchestrator.data.shards.manifest import Manifest
from orchestrator.storage.stores import StoreSettings, open_stores


def open_batches(config: RunConfig, manifest: Manifest, order: SlotOrder, split: str, threads: int = 1) -> BatchMaker:
    """The maker of a split's batches; `threads` is what "auto" means for data.workers.threads."""
    if config.packed_len is not None:
        return PackedBatches(order, TokenReader(manifest, split), documents_apart=config.task.documents_apart)
    workers = config.data.workers
    suffixes = {name: field.members for name, field in config.data.read_fields.items()}
    reader = SampleReader(manifest, split, suffixes, open_stores(StoreSettings.of(config.data)))
    decoding = open_decoding(config, manifest)
    beyond = config.data.mixup is not None and split == "train"
    if workers.processes:
        decoders: Decoders = WorkerProcesses(decoding, workers.processes)
        return SampledBatches(order, reader, decoders, seed=config.seed, threads=workers.processes, beyond=beyond)
    threads = threads if workers.threads == "auto" else workers.threads
    return SampledBatches(order, reader, OwnProcess(decoding), seed=config.seed, threads=threads, beyond=beyond)


def open_decoding(config: RunConfig, manifest: Manifest) -> Decoding:
    """How members become values, with what the manifest tells: figures of a table, the run's tokenizer."""
    last: LastStep | None = None
    if config.data.table is not None:
        found = manifest.statistics()
        last = RowReader.of(config, Figures(found["repairs"], found["scales"]))
    elif config.reads_tokens:
        last = TextReader(manifest.tokenizer, config.task.seq_len)
    return Decoding.of(config.data, last)
