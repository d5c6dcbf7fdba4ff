"""What state costs: snapshots, checkpoints, loading on another world, re-forming; each beside the plain way.

    snapshot    pause for a snapshot, beside a plain copy of the same bytes in memory: at most 1.5
    checkpoint  pause for a checkpoint, beside that of engine.save_checkpoint: at most 0.1
    disk        rate of writing a part behind the steps, beside writing and flushing the same bytes: at least 0.7
    load        time of ds_to_universal and a universal load, beside loading ours on one rank: at least 5
    reform      from memory on the same world, beside a plain copy of a rank's bytes: with 6 million parameters under
                0.2 s at ZeRO-2 and 0.4 s at ZeRO-3

Two CPU ranks (gloo) in two processes, taken in turns so that both sides see the same machine. Keep it quiet. Run:

    python benchmarks/state.py [--only snapshot,checkpoint] [--rounds 30] [--stages 2,3] [--millions 6,10,100]
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]

from orchestrator.checkpoint.behind import SLOTS, Behind
from orchestrator.checkpoint.fragments import Fragment, RankState, TensorInfo
from orchestrator.checkpoint.layout import CheckpointFacts
from orchestrator.checkpoint.reader import StateReader, open_checkpoint
from orchestrator.checkpoint.shelf import shelf_of
from orchestrator.checkpoint.slot import Slot
from orchestrator.checkpoint.vault import Committed, Written
from orchestrator.checkpoint.writer import write_part
from orchestrator.config.run import RunConfig
from orchestrator.config.running import KeepSection
from orchestrator.core.words import World
from orchestrator.train.agreement import sum_over_ranks
from orchestrator.train.engine import Engine, warm
from orchestrator.train.models.build import build_model
from orchestrator.train.models.initial import initial_source
from orchestrator.train.reform import Formation, dissolve, form
from orchestrator.train.snapshot import Snapper

RANKS, WORDS, LENGTH = 2, 4096, 32
SIZES = {  # by millions of parameters: hidden, intermediate, layers
    6: (256, 688, 6),
    10: (320, 864, 8),
    100: (832, 2240, 12),
    500: (1664, 4480, 16),
}
FACTS = CheckpointFacts(zero_stage=2, config_hash="none", chain=())
TIMEOUT_S = 1800.0
PIECE = 2**28  # bytes; larger than any cache

Work = Callable[..., Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="snapshot,checkpoint,disk,load,reform")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--stages", default="2,3")
    parser.add_argument("--millions", default="6")
    parser.add_argument("--gib", type=float, default=1.0, help="disk: bytes of the part")
    options = parser.parse_args()
    wanted = options.only.split(",")
    cases = [(int(stage), int(size)) for size in options.millions.split(",") for stage in options.stages.split(",")]
    for stage, millions in cases:
        for name, work in (("snapshot", snapshot), ("checkpoint", checkpoint), ("load", load), ("reform", reform)):
            if name in wanted:
                print(
                    f"{name}, ZeRO-{stage}, {millions} M: {run_ranks(work, stage, millions, options.rounds)}",
                    flush=True,
                )
    if "disk" in wanted:
        print(f"disk, {options.gib} GiB: {disk(int(options.gib * 2**30), min(5, options.rounds))}", flush=True)


# ---- what is measured ----


def snapshot(rank: int, store: Store, folder: Path, stage: int, millions: int, rounds: int) -> str:
    formation = make_formation(rank, store, "only", stage, millions)
    engine = begin(formation)
    slots, snapper = [Slot.create(str(number)) for number in range(SLOTS)], Snapper(formation.world, 1)
    snapper.take(slots[0], engine.look(), 0, FACTS)
    size = slots[0].part().size_bytes
    source, targets = torch.ones(size // 4), [torch.zeros(size // 4) for _ in range(SLOTS)]
    own, plain = [], []
    for number in range(rounds + 2 * SLOTS):  # the first round of each slot pays for its pages
        slot, target = slots[number % SLOTS], targets[number % SLOTS]
        own.append(timed(lambda slot=slot, number=number: snapper.take(slot, engine.look(), number, FACTS)))
        plain.append(timed(lambda target=target: target.copy_(source)))
    return compare(own[2 * SLOTS :], plain[2 * SLOTS :], "plain copy", size)


def checkpoint(rank: int, store: Store, folder: Path, stage: int, millions: int, rounds: int) -> str:
    formation = make_formation(rank, store, "only", stage, millions)
    engine = begin(formation)
    slots, snapper = [Slot.create(str(number)) for number in range(SLOTS)], Snapper(formation.world, 1)
    vault = Behind(slots, shelf_of(folder / "own")[0], keep=KeepSection(last=1), best_by="loss")
    own, theirs = [], []
    for step in range(min(rounds, 10) + SLOTS):
        own.append(timed(lambda step=step: ask_to_save(vault, snapper, engine, step)))
        wait_for(vault, Written)
        sum_over_ranks([0.0])
        if rank == 0:
            vault.commit(step % SLOTS)
            wait_for(vault, Committed)
        theirs.append(timed(lambda: engine._engine.save_checkpoint(str(folder / "theirs"), tag="one")))
        sum_over_ranks([0.0])
    vault.close()
    return compare(own[SLOTS:], theirs[SLOTS:], "engine.save_checkpoint", slots[0].part().size_bytes)


def ask_to_save(vault: Behind, snapper: Snapper, engine: Engine, step: int) -> None:
    snapper.take(vault.slots[step % SLOTS], engine.look(), step, FACTS)
    vault.keep(step % SLOTS, write=True)


def load(rank: int, store: Store, folder: Path, stage: int, millions: int, rounds: int) -> str:
    """Written by two ranks, loaded by one."""
    formation = make_formation(rank, store, "before", stage, millions)
    engine = begin(formation)
    vault = Behind([Slot.create("load")], shelf_of(folder / "own")[0], keep=KeepSection(last=1), best_by="loss")
    ask_to_save(vault, Snapper(formation.world, 1), engine, 0)
    wait_for(vault, Written)
    sum_over_ranks([0.0])
    if rank == 0:
        vault.commit(0)
    path = wait_for(vault, Committed).path if rank == 0 else ""
    engine._engine.save_checkpoint(str(folder / "theirs"), tag="one")
    sum_over_ranks([0.0])
    dissolve(engine)
    if rank:
        return ""
    own = [load_own(store, stage, millions, path, number) for number in range(3)]
    theirs = [load_universal(store, stage, millions, folder, number) for number in range(3)]
    return f"{compare(theirs, own, 'loading of ours', 0)} (asked: at least 5)"


def load_own(store: Store, stage: int, millions: int, path: str, number: int) -> float:
    engine = begin(make_formation(0, store, f"own {number}", stage, millions, size=1), step=False)

    def insert() -> None:
        reader = open_checkpoint(path)
        engine.insert(reader)
        reader.close()

    took_s = timed(insert)
    dissolve(engine)
    return took_s


def load_universal(store: Store, stage: int, millions: int, folder: Path, number: int) -> float:
    """Their converter in its own process, less the time of its imports, and their engine's load."""
    from deepspeed.checkpoint import ds_to_universal

    whole = folder / f"universal {number}"
    options = ["--input_folder", str(folder / "theirs" / "one"), "--output_folder", str(whole / "one")]
    options += ["--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    universal = {"load_universal": True}
    engine = begin(
        make_formation(0, store, f"their {number}", stage, millions, size=1, checkpoint=universal), step=False
    )
    with_options = partial(ds_to_universal.main, _parse(ds_to_universal, options))

    def convert_and_load() -> None:
        with_options()
        (whole / "latest").write_text("one")
        engine._engine.load_checkpoint(str(whole), tag="one")

    took_s = timed(convert_and_load)
    dissolve(engine)
    return took_s


def _parse(module: Any, options: list[str]) -> Any:
    import sys
    from unittest import mock

    with mock.patch.object(sys, "argv", ["ds_to_universal", *options]):
        return module.parse_arguments()


def reform(rank: int, store: Store, folder: Path, stage: int, millions: int, rounds: int) -> str:
    """All ranks survive: drop, leave, join, build, insert from both ranks' slots."""
    formation = make_formation(rank, store, "first", stage, millions)
    engine, slot = begin(formation), Slot.create("reform")
    Snapper(formation.world, 1).take(slot, engine.look(), 1, FACTS)
    store.set(f"slot {rank}", slot.path)
    copy = partial(copy_plainly, slot.body(), bytearray(PIECE))
    sum_over_ranks([0.0])
    own, plain = [], []
    for number in range(min(rounds, 12) + 2):
        reader = read_slots([store.get(f"slot {other}").decode() for other in range(RANKS)])
        formation = make_formation(rank, store, f"again {number}", stage, millions)
        sum_over_ranks([0.0])
        began = time.perf_counter()
        dissolve(engine)
        engine = form(formation, reader)
        own.append(time.perf_counter() - began)
        reader.close()
        plain.append(timed(copy))
    dissolve(engine)
    return compare(own[2:], plain[2:], "plain copy", slot.part().size_bytes)


def copy_plainly(source: memoryview, target: bytearray) -> None:
    """Piece by piece: there may not be memory for all of it twice."""
    for begin in range(0, len(source), PIECE):
        piece = source[begin : begin + PIECE]
        target[: len(piece)] = piece


def disk(size_bytes: int, rounds: int) -> str:
    """A part of made-up values through write_part, and the same bytes by plain writes."""
    slot = fill_slot(torch.randint(0, 2**31, (size_bytes // 4,), dtype=torch.int32))
    with tempfile.TemporaryDirectory(prefix="state-", dir=Path.cwd()) as name:
        folder, own, plain = Path(name), [], []
        for _ in range(rounds):
            own.append(timed(lambda: write_part(folder / "own", slot)))
            shutil.rmtree(folder / "own")
            plain.append(timed(lambda: write_plainly(folder / "plain", slot.body())))
            (folder / "plain").unlink()
    rates = [size_bytes / median(series) / 2**20 for series in (own, plain)]
    return f"{rates[0]:.0f} MiB/s, plain writes {rates[1]:.0f} MiB/s: ratio {rates[0] / rates[1]:.2f}"


# ---- pieces ----


def make_formation(
    rank: int, store: Store, name: str, stage: int, millions: int, size: int = RANKS, **deepspeed: Any
) -> Formation:
    config = make_config(stage, millions, **deepspeed)
    return Formation(
        world=World.flat(rank, size),
        store=PrefixStore(name, store),
        config=config,
        build=partial(build_model, config, WORDS),
        device="cpu",
        micro_batch=1,
        accumulation=1,
        timeout_s=TIMEOUT_S,
    )


def make_config(stage: int, millions: int, **deepspeed: Any) -> RunConfig:
    hidden, intermediate, layers = SIZES[millions]
    model = {"model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate}
    model |= {"num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 8}
    zero = {"stage": stage, "reduce_bucket_size": 5_000_000}
    config = RunConfig.model_validate(
        {
            "name": "state",
            "data": {"train": [{"path": "nowhere"}]},
            "prepare": {"tokens": {"train_bpe": WORDS}},
            "task": {"seq_len": LENGTH},
            "model": {"transformers": model},
            "optim": {"name": "adamw"},
            "train": {"steps": 1, "global_batch": RANKS, "precision": "bf16"},
            "deepspeed": {"zero_optimization": zero},
            "cluster": {"device": "cpu"},
        }
    )
    return config.model_copy(update={"deepspeed": config.deepspeed | deepspeed})  # a run may not ask for all of it


def begin(formation: Formation, *, step: bool = True) -> Engine:
    """An engine with initial weights, and after one step, so that the optimizer has states."""
    engine = form(formation, initial_source(formation.config, WORDS))
    if step:
        tokens = torch.randint(0, WORDS, (1, LENGTH))
        engine.backward(engine.forward(input_ids=tokens, labels=tokens).loss)
        engine.step(1e-4)
    return engine


def read_slots(paths: list[str]) -> StateReader:
    """As recovery reads the slots of vaults."""
    slots = [Slot.open(path) for path in paths]
    parts = [slot.part() for slot in slots]
    return StateReader(
        step=parts[0].step,
        generation=parts[0].generation,
        world_size=parts[0].world_size,
        facts=parts[0].facts,
        tensors={name: TensorInfo.from_json(fields) for name, fields in parts[0].tensors.items()},
        scalars={name: numbers for part in parts for name, numbers in part.scalars.items()},
        engine=parts[0].engine,
        parts=[(part.fragments, slot) for part, slot in zip(parts, slots, strict=True)],
    )


def fill_slot(values: torch.Tensor) -> Slot:
    slot = Slot.create("disk")
    info = TensorInfo((values.numel(),), "int32", "buffer")
    state = RankState([Fragment("made up", "value", 0, values)], {"made up": info}, {}, {})
    Snapper(World.flat(0, 1), 1).take(slot, state, 1, FACTS)
    slot.seal()
    return slot


def write_plainly(path: Path, data: memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def wait_for(vault: Behind, kind: type[Any]) -> Any:
    while True:
        for answer in vault.answers(wait=True):
            if isinstance(answer, kind):
                assert not answer.problem, answer.problem
                return answer


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(own: list[float], other: list[float], name: str, size_bytes: int) -> str:
    told = f"{median(own) * 1e3:.1f} ms, {name} {median(other) * 1e3:.1f} ms: ratio {median(own) / median(other):.3f}"
    return f"{told}; {size_bytes / 2**20:.0f} MiB a rank" if size_bytes else told


# ---- processes ----


def run_ranks(work: Work, stage: int, millions: int, rounds: int) -> str:
    """What rank 0 says."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="state-", dir=Path.cwd()) as name:
        ours, theirs = context.Pipe(duplex=False)
        args = (Path(name), theirs, work, stage, millions, rounds)
        ranks = [context.Process(target=be_rank, args=(rank, *args), daemon=True) for rank in range(RANKS)]
        for rank in ranks:
            rank.start()
        theirs.close()
        try:
            told: str = ours.recv()
        finally:
            for rank in ranks:
                rank.join(timeout=10.0)
                rank.kill()
    return told


def be_rank(rank: int, folder: Path, pipe: Any, work: Work, stage: int, millions: int, rounds: int) -> None:
    warm("cpu", threads=1)
    told = work(rank, FileStore(str(folder / "store"), RANKS), folder, stage, millions, rounds)
    if rank == 0:
        pipe.send(told)


if __name__ == "__main__":
    main()
