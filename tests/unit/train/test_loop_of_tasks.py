"""The whole trainer with tables and texts: the same losses and gradients on one rank and on two, whose slices of a
batch are uneven. One gang of two goes through all cases once."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.run import RunConfig
from orchestrator.prepare.run import prepare
from orchestrator.train.engine import warm
from tests.fakes.gang import run_gang
from tests.fakes.shards import write_tar
from tests.fakes.small_runs import train_small
from tests.fakes.tables import TABLE, make_row, write_rows

STEPS, BATCH = 3, 9
WORLDS = {1: 0, 2: 3}  # ranks, and the ZeRO stage there
WORDS = ("one two three four", "five six", "seven eight nine ten eleven twelve thirteen", "")
CASES: dict[str, dict[str, Any]] = {
    "classes": {
        "data": {"table": TABLE},
        "task": {"name": "tabular_classification", "classes": 2, "loss": {"class_weights": "balanced"}},
        "model": {"mlp": {"hidden": [8]}},
    },
    "one output": {
        "data": {"table": TABLE},
        "task": {"name": "tabular_classification", "classes": 2, "loss": {"name": "binary_cross_entropy"}},
        "model": {"linear": {}},
    },
    "numbers": {
        "data": {"table": {"columns": ["age", {"name": "colour", "values": ["red", "green"]}], "target": "size"}},
        "task": {"name": "tabular_regression", "loss": {"name": "huber", "delta": 0.5}},
        "model": {"mlp": {"hidden": [8], "activation": "tanh"}},
    },
    "texts": {
        "data": {"fields": {"text": {"members": ["txt"]}, "label": {"members": ["cls"]}}},
        "task": {"name": "text_classification", "classes": 3, "seq_len": 12},
        "prepare": {"tokens": {"train_bpe": 280}},
        "model": {"rnn": {"embedding": 8, "hidden": 8}},
    },
    "own step": {
        "data": {"table": {"columns": ["age"], "target": "size"}},
        "task": {"name": "tabular_regression", "step": "tests.fakes.own_task:twice_the_error"},
        "model": {"linear": {}},
    },
}


def make_config(folder: Path, case: str, stage: int = 0) -> RunConfig:
    source = folder / ("texts" if case == "texts" else "rows")
    value = {
        "name": "small",
        **CASES[case],
        "data": {"train": [{"path": str(source)}], "work": str(folder / "work"), "run_samples": 1}
        | CASES[case]["data"],
        "optim": {"lr": 1e-2},
        "train": {"steps": STEPS, "global_batch": BATCH, "precision": "fp32", "clip_norm": 1.0},
        "deepspeed": {"zero_optimization": {"stage": stage, "reduce_bucket_size": 100_000}},
        "cluster": {"device": "cpu"},
    }
    return RunConfig.model_validate(value)


def run_all(rank: int, size: int, store: Any, folder: Path, manifests: dict[str, Any]) -> dict[tuple[str, int], Any]:
    warm("cpu", threads=1)
    rows = {}
    for case, manifest in manifests.items():
        for world, stage in WORLDS.items():
            if rank < world <= size:
                config = make_config(folder, case, stage)
                _, sink = train_small(rank, world, store, config, folder / f"{case}{world}", manifest=manifest)
                rows[case, world] = sink.rows()
    return rows


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Rows by case and world, as rank 0 told them."""
    folder = tmp_path_factory.mktemp("tasks")
    write_rows(folder / "rows" / "a.tar", [make_row(n) for n in range(37)])
    texts = [(f"{n:03d}", WORDS[n % 4], n % 3) for n in range(37)]
    members = [
        one
        for key, text, label in texts
        for one in ((f"{key}.cls", str(label).encode()), (f"{key}.txt", text.encode()))
    ]
    write_tar(folder / "texts" / "a.tar", members)
    manifests = {case: prepare(make_config(folder, case)) for case in CASES}
    return run_gang(2, run_all, folder, manifests)[0]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_do_not_depend_on_the_world(told, case):
    for one, many in zip(told[case, 1], told[case, 2], strict=True):
        assert many["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-4)
        assert all(many[key] == one[key] for key in ("order_digest", "set_digest", "count", "samples"))


@pytest.mark.parametrize("case", CASES)
def test_something_is_learned(told, case):
    losses = [row["loss"] for row in told[case, 1]]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
