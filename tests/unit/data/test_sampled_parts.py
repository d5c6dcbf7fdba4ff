"""What parts of a batch of samples are made of, put together and weighed; and nobody left behind when it is over."""

import numpy as np
import psutil
import pytest

from orchestrator.core.words import World
from orchestrator.data.feeding.batch import ReadFigures
from orchestrator.data.feeding.feed import open_batches
from orchestrator.data.feeding.sampled import Part, join_parts, weigh_sample
from orchestrator.data.feeding.samples import SampleReader
from orchestrator.data.ordering.order import Order
from orchestrator.data.ordering.skips import Skips
from orchestrator.prepare.run import prepare
from tests.fakes.arrays import array_config, write_arrays
from tests.fakes.shards import LOCAL, write_tar


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """A config and its manifest."""
    root = tmp_path_factory.mktemp("arrays")
    write_arrays(root / "data", 2)
    config = array_config(root)
    return config, prepare(config)


def make_part(columns, holes):
    size = len(next(iter(columns.values())))
    return Part(columns, holes, np.zeros((size, 2), np.uint64), ReadFigures(10))


def test_a_part_of_holes_alone_knows_no_field_that_transforms_add():
    broken = make_part({"text": [None, None]}, {0: "no text", 1: "no text"})
    good = make_part({"text": ["a", None], "length": [1, None]}, {1: "too short"})
    joined = join_parts([broken, good])
    assert joined.columns == {"text": [None, None, "a", None], "length": [None, None, 1, None]}
    assert joined.holes == {0: "no text", 1: "no text", 3: "too short"}
    assert joined.figures.read_bytes == 20


def test_a_sample_weighs_what_its_arrays_take_and_what_was_read_of_texts():
    arrays = {"image": np.zeros((4, 8), np.uint8), "label": np.zeros(4, np.int64)}
    assert weigh_sample(arrays, ReadFigures(4000)) == 8 + 8
    texts = np.array(["a", "b", "c", "d"], object)
    assert weigh_sample(arrays | {"text": texts}, ReadFigures(4000)) == 8 + 8 + 1000


def test_each_field_is_named_by_its_own_suffix(tmp_path):
    write_tar(tmp_path / "data" / "0.tar", [("a.npy", b"1"), ("a.txt", b"2"), ("b.cls", b"3"), ("b.npy", b"4")])
    fields = {"first": ["npy"], "second": ["cls", "txt"]}
    config = array_config(tmp_path, {"fields": {name: {"members": members} for name, members in fields.items()}})
    raw = SampleReader(prepare(config), "train", fields, LOCAL).read(np.zeros(2, np.int64), np.arange(2))
    assert raw.suffixes == [["npy", "npy"], ["txt", "cls"]]


@pytest.mark.parametrize(("threads", "at_once"), [(1, 1), (2, 2), (4, 2)])
def test_a_second_batch_is_under_way_where_there_are_threads_for_it(arrays, threads, at_once):
    batches = open_batches(*arrays, Order.of(*arrays), "train", threads)
    assert batches.workers == at_once
    batches.close()


def test_processes_that_decode_end_with_the_batches(tmp_path):
    write_arrays(tmp_path / "data", 2)
    config = array_config(tmp_path, {"workers": {"processes": 1}})
    manifest = prepare(config)
    before = set(psutil.Process().children(recursive=True))
    batches = open_batches(config, manifest, Order.of(config, manifest), "train")
    batches.make(0, World.flat(0, 1), Skips())
    new = [one for one in psutil.Process().children(recursive=True) if one not in before]
    workers = [one for one in new if "resource_tracker" not in " ".join(one.cmdline())]
    assert workers
    batches.close()
    assert not [one for one in workers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
