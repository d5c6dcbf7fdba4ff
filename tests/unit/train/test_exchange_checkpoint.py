"""Checkpoints that are written from any source, in parts and pieces that cut tensors anywhere."""

import pytest
import torch

from orchestrator.checkpoint.found import verify
from orchestrator.checkpoint.layout import CHUNK_BYTES, CheckpointFacts
from orchestrator.checkpoint.reader import open_checkpoint
from orchestrator.checkpoint.shelf import LocalShelf
from orchestrator.core.errors import CheckpointDamaged
from orchestrator.train.exchange.checkpoint import write_checkpoint
from tests.fakes.memory_source import MemorySource
from tests.fakes.saving import MadeUpModel, make_model

FACTS = CheckpointFacts(zero_stage=2, config_hash="c0ffee", chain=("one",))
LARGE = CHUNK_BYTES // 2 + 77_777  # elements: some chunks of each state


def write(model: MadeUpModel, folder, part_bytes: int):
    source = MemorySource(model.values, {name: {"step": 3.0} for name in model.infos}, {"loss_scale": 4.0})
    shelf = LocalShelf(folder)
    return write_checkpoint(shelf, source, model.infos, FACTS, step=3, generation=1, part_bytes=part_bytes)


@pytest.mark.parametrize("part_bytes", [2**40, 3 * CHUNK_BYTES + 1, 1_000])
def test_what_is_read_is_what_the_source_gave(tmp_path, part_bytes):
    large = LARGE if part_bytes > CHUNK_BYTES else 2_001
    model = make_model(
        [
            ((large,), "trainable", "float32"),
            ((3, 111), "frozen", "bfloat16"),
            ((), "buffer", "int64"),
            ((0,), "buffer", "bool"),
        ]
    )
    path = write(model, tmp_path, part_bytes)
    assert verify(path) == []
    reader = open_checkpoint(path)
    assert (reader.step, reader.facts, reader.engine()) == (3, FACTS, {"loss_scale": 4.0})
    assert reader.world_size == 1 or part_bytes < 2**40
    for (name, state), values in model.values.items():
        if values.numel():
            assert torch.equal(reader.read(name, state, 0, values.numel()), values)
            assert reader.scalars(name) == {"step": 3.0}
    reader.close()


def test_a_source_that_lacks_a_tensor_makes_no_checkpoint(tmp_path):
    model = make_model([((7,), "trainable", "float32"), ((5,), "buffer", "float32")])
    del model.values[next(name for name, info in model.infos.items() if info.kind == "buffer"), "value"]
    with pytest.raises(CheckpointDamaged, match="no fragment of state 'value'"):
        write(model, tmp_path, 2**40)
    assert not list(tmp_path.glob("*/COMMIT"))
