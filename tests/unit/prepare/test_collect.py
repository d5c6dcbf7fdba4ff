"""Rules for tables that go by statistics, from shards to verdicts."""

import json

from orchestrator.prepare.run import prepare
from tests.fakes.shards import run_backwards, write_tar
from tests.unit.prepare.test_dedup import config_of, drops_of

STEPS = [
    {"name": "missing", "args": {"columns": ["age"], "rule": "median"}},
    {"name": "outliers", "args": {"columns": ["pay"], "rule": "iqr"}},
]


def write_rows(folder, shards):
    for number, rows in enumerate(shards):
        members = [(f"r{i:02d}.json", json.dumps(row).encode()) for i, row in enumerate(rows)]
        write_tar(folder / f"{number}.tar", members)


def table_config(root, prepare_section, **data):
    return config_of(root, {"tokens": None, **prepare_section}, fields={"row": {"members": ["json"]}}, **data)


def test_rows_beyond_the_fences_of_the_first_segment_go(tmp_path):
    plain = [{"age": i % 7, "pay": i % 10} for i in range(20)]
    write_rows(tmp_path / "data", [plain, [*plain, {"pay": 1000}, {"age": 3, "pay": 5}]])
    for work, run_all in (("w1", None), ("w2", run_backwards)):
        config = table_config(tmp_path, {"clean": STEPS}, work=str(tmp_path / work), segment_shards=9)
        manifest = prepare(config, *([run_all] if run_all else []))
        drops = drops_of(manifest)
        assert {(manifest.shard_name(ordinal), place) for ordinal, place in drops} == {("data/1.tar", 20)}
        (drop,) = drops.values()
        assert (drop["rule"], "1000" in drop["reason"]) == ("outliers", True)
        kept = json.loads(next((tmp_path / work).rglob("statistics.json")).read_text())
        assert kept["repairs"][0]["column"] == "age"


def test_later_segments_are_judged_by_the_figures_of_the_first(tmp_path):
    write_rows(tmp_path / "data", [[{"pay": i} for i in range(10)]])
    config = table_config(tmp_path, {"clean": STEPS[1:]}, segment_shards=1)
    prepare(config)
    write_rows(tmp_path / "more", [[{"pay": 500 + i} for i in range(10)] + [{"pay": 4}]])
    (tmp_path / "more" / "0.tar").rename(tmp_path / "data" / "1.tar")
    manifest = prepare(config)
    assert manifest.places(0, "train").size == 10
    assert manifest.places(1, "train").tolist() == [10]
