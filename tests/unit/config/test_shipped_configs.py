"""Everything in configs/ loads, alone and under every overlay, and helps the editor."""

import json
from itertools import product
from pathlib import Path

import pytest

from orchestrator.config.load import load_config
from orchestrator.config.resolve import Facts, resolve_run, resolve_world
from orchestrator.config.show import json_schema

CONFIGS = Path(__file__).parents[3] / "configs"
RUNS = sorted(CONFIGS.glob("*.yaml"))
OVERLAYS = sorted(CONFIGS.glob("*/*.yaml"))
FACTS = Facts(device="cuda", cpus_per_node=64, remote=False, sample_bytes=0, wandb_key=False)


def test_there_are_runs_and_overlays_to_look_at():
    shipped = {"quickstart", "tiny", "gpt2-small", "llama-1b", "llama-7b", "resnet50-imagenet"}
    assert shipped <= {path.stem for path in RUNS}
    assert OVERLAYS


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_shipped_run_loads_and_its_batches_can_be_cut(path):
    config, _ = resolve_run(load_config(path).config, FACTS)
    world = config.cluster.nodes.max * config.cluster.ranks_per_node
    plan = resolve_world(config, FACTS, world)
    assert plan.micro_batch * plan.accumulation * world >= config.train.global_batch


@pytest.mark.parametrize(("path", "overlay"), list(product(RUNS, OVERLAYS)), ids=lambda path: path.stem)
def test_a_shipped_run_loads_under_every_overlay(path, overlay):
    load_config(path, [overlay])


@pytest.mark.parametrize("path", [*RUNS, *OVERLAYS], ids=lambda path: path.stem)
def test_a_shipped_file_begins_with_its_schema(path):
    head, _, schema = path.read_text().splitlines()[0].partition("=")
    assert head == "# yaml-language-server: $schema"
    expected = "overlay.schema.json" if path in OVERLAYS else "schema.json"
    assert (path.parent / schema).resolve() == CONFIGS / expected


@pytest.mark.parametrize(("name", "overlay"), [("schema.json", False), ("overlay.schema.json", True)])
def test_the_shipped_schema_is_up_to_date(name, overlay):
    """To renew it: longhaul config schema [--overlay] > configs/<name>"""
    assert json.loads((CONFIGS / name).read_text()) == json_schema(overlay=overlay)
