"""`longhaul bench-data` of small texts and pictures that are prepared already: what it tells, and what it refuses."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from launch.bench_data import Bench, Speed, advise, bench_data
from launch.loader_stages import BATCHING, CHECKSUMS, DECODING, ORDER, READING, TRANSFORMS
from launch.screen import Screen
from orchestrator.config.check import replace_values
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.core.errors import BadInput
from orchestrator.prepare.run import prepare
from tests.fakes.pictures import picture_config, write_pictures
from tests.fakes.shards import make_config, write_dataset

SECONDS, BATCH = 0.6, 8
SLOW_S = 0.02  # of one picture: more than all else together, also where others are at work


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The file of a config."""
    root = tmp_path_factory.mktemp("texts")
    write_dataset(root / "data", 4, documents=50)
    return write_config(root, make_config(root), **{"task.seq_len": 32})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root / "data", 4)
    slow = [{"name": "tests.fakes.slow_steps.take_long", "field": "image", "args": {"seconds": SLOW_S}}]
    data = {"data.workers.threads": 2, "data.transforms": slow}
    return write_config(root, picture_config(root), **data, **{"cluster.ranks_per_node": 2})


def write_config(root, config: RunConfig, **values):
    config = replace_values(config, {"train.global_batch": BATCH, **values})
    prepare(config)
    path = root / "config.yaml"
    path.write_text(dump_yaml(config))
    return path


def bench(path, capsys, *sets, machine=False, ranks=None):
    """What is printed: the words, or the JSON."""
    screen = Screen(Console(file=io.StringIO(), width=80))
    bench_data(path, [], sets, screen, seconds=SECONDS, ranks=ranks, machine=machine)
    if machine:
        return json.loads(capsys.readouterr().out)
    return " ".join(screen.console.file.getvalue().split())


def test_of_texts_samples_and_tokens_are_told_and_what_limits_them(texts, capsys):
    found = bench(texts, capsys, machine=True)
    assert (found["format"], found["ranks"]) == (1, 1)
    assert found["stages"].keys() == {ORDER, READING, CHECKSUMS, BATCHING}
    assert sum(found["stages"].values()) == pytest.approx(1)
    assert found["stages"][found["limit"]] == max(found["stages"].values())
    assert found["advice"].startswith(found["limit"])
    [speed] = found["speeds"]
    assert (speed["threads"], speed["processes"]) == (1, 0)
    assert speed["tokens_per_s"] == pytest.approx(32 * speed["samples_per_s"], rel=0.1)  # the last sequence is short
    assert speed["bytes_per_s"] > speed["tokens_per_s"] > 0


def test_of_pictures_a_slow_transform_is_named_as_the_limit_with_the_key_that_helps(pictures, capsys):
    found = bench(pictures, capsys, machine=True)
    assert found["ranks"] == 2
    assert found["limit"] == TRANSFORMS
    assert found["stages"].keys() == {ORDER, READING, CHECKSUMS, DECODING, TRANSFORMS, BATCHING}
    assert found["stages"][TRANSFORMS] > 0.5
    assert "data.workers.threads" in found["advice"]
    one, two = found["speeds"]
    assert (one["threads"], two["threads"]) == (1, 2)
    assert one["samples_per_s"] < 2 / SLOW_S  # two batches may be ready at the start
    assert two["samples_per_s"] > 1.2 * one["samples_per_s"]
    assert one["tokens_per_s"] is None


def test_people_see_a_row_for_each_number_of_threads_and_the_limit_in_words(pictures, capsys):
    told = bench(pictures, capsys)
    assert told.startswith("loader of one rank of 2, without a model")
    assert "threads processes samples/s MB/s first batch 1 0 " in told
    assert " s 2 0 " in told
    assert "of one thread's time: transforms " in told
    assert "transforms takes the most time; what helps is more data.workers.threads" in told
    assert "tokens/s" not in told


def test_people_see_tokens_of_texts(texts, capsys):
    assert "threads processes samples/s tokens/s MB/s first batch 1 0 " in bench(texts, capsys)


@pytest.mark.parametrize("data", ["texts", "pictures"])
def test_more_ranks_than_samples_in_a_step_are_refused(data, request, capsys):
    """The first of them would have nothing to do."""
    with pytest.raises(BadInput, match=r"train\.global_batch=8") as caught:
        bench(request.getfixturevalue(data), capsys, ranks=BATCH + 1)
    assert caught.value.where == "--ranks 9"


@pytest.mark.parametrize(
    ("limit", "threads", "processes", "faster", "remote", "advised"),
    [
        (TRANSFORMS, 4, 0, 1.1, False, "data.workers.processes=4"),
        (DECODING, 4, 0, 1.9, False, "data.workers.processes=4"),
        (DECODING, 4, 0, 2.1, False, "cluster.cpus_per_rank"),
        (DECODING, 4, 4, 1.1, False, "cluster.cpus_per_rank"),  # they are processes already
        (CHECKSUMS, 4, 0, 1.1, False, "cluster.cpus_per_rank"),
        (DECODING, 1, 0, 1.0, False, "cluster.cpus_per_rank"),
        (READING, 4, 0, 3.0, True, "data.run_samples"),
        (READING, 4, 0, 3.0, False, "page cache"),
        (ORDER, 1, 0, 1.0, False, "train.global_batch"),
        (BATCHING, 1, 0, 1.0, False, "data.transforms"),
    ],
)
def test_advice_names_what_would_help(tmp_path, limit, threads, processes, faster, remote, advised):
    roots = SimpleNamespace(roots={"data": "s3://bucket/data" if remote else "/data"})
    found = Bench(config=picture_config(tmp_path), manifest=roots, order=None, ranks=1, threads=threads)
    speeds = [speed(1, 0, 100), *([speed(threads, processes, faster * 100)] if threads > 1 else [])]
    advice = advise(found, limit, speeds)
    assert advice.startswith(limit)
    assert advised in advice


def speed(threads, processes, samples_per_s):
    return Speed(
        threads=threads,
        processes=processes,
        samples_per_s=samples_per_s,
        tokens_per_s=None,
        bytes_per_s=1,
        first_batch_s=1,
    )
