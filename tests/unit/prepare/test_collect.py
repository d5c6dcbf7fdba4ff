"""Rules for tables that go by statistics, from shards to verdicts."""

import json

import pytest
from pydantic import ValidationError

from orchestrator.core.errors import DataError
from orchestrator.core.mapping import run_serially
from orchestrator.prepare.run import prepare
from tests.fakes.copies import config_of, drops_of, published
from tests.fakes.shards import run_backwards, write_tar

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


def write_drifting(folder):
    """What is far out by the figures of any one shard is common in all."""
    write_rows(folder, [[{"pay": i % 10 + 100 * shard} for i in range(20)] for shard in range(3)])


def write_all_figures(root, run_all, **data):
    write_drifting(root / "data")
    config = table_config(root, {"clean": STEPS[1:], "statistics": "all"}, segment_shards=1, **data)
    return config, prepare(config, run_all)


def test_figures_of_all_rows_are_the_same_in_any_order_of_jobs_and_judge_every_segment(tmp_path):
    (tmp_path / "a").mkdir()
    _, calm = write_all_figures(tmp_path / "a", run_serially)
    _, shuffled = write_all_figures(tmp_path / "b", run_backwards)
    assert len(calm.segments) > 1
    assert not drops_of(calm)  # by those of the first segment alone, two thirds would go
    assert shuffled.ids == calm.ids
    assert published(tmp_path / "b") == published(tmp_path / "a")
    first = prepare(table_config(tmp_path / "a", {"clean": STEPS[1:]}, segment_shards=1))
    assert len(drops_of(first)) == 40
    assert first.chain != calm.chain


def test_figures_of_all_rows_leave_out_what_is_not_trained_on(tmp_path):
    write_all_figures(tmp_path, run_serially, split={"validation": 0.4})
    (path,) = (tmp_path / "work").rglob("statistics.json")
    assert 20 < json.loads(path.read_text())["statistics"]["columns"]["pay"]["count"] < 50


def test_data_that_comes_later_is_judged_by_the_figures_of_all_that_there_was(tmp_path):
    config, before = write_all_figures(tmp_path, run_serially)
    write_rows(tmp_path / "more", [[{"pay": 5}, {"pay": 5000}]])
    (tmp_path / "more" / "0.tar").rename(tmp_path / "data" / "later.tar")
    after = prepare(config)
    assert after.ids[: len(before.ids)] == before.ids != after.ids
    assert [place for _, place in drops_of(after)] == [1]


def test_figures_of_all_rows_are_part_of_the_chain(tmp_path):
    """A chain that began with other data is another, even where its first segment is the same."""
    _, whole = write_all_figures(tmp_path / "whole", run_serially)
    config = table_config(tmp_path / "part", {"clean": STEPS[1:], "statistics": "all"}, segment_shards=1)
    first = whole.shard_names()[0].removeprefix("data/")
    write_drifting(tmp_path / "all")
    (tmp_path / "part" / "data").mkdir(parents=True)
    (tmp_path / "all" / first).rename(tmp_path / "part" / "data" / first)
    assert prepare(config).ids[0] != whole.ids[0]


def test_lost_figures_of_all_rows_are_taken_again_or_missed(tmp_path):
    config, before = write_all_figures(tmp_path, run_serially)
    (path,) = (tmp_path / "work").rglob("statistics.json")
    path.unlink()
    next((tmp_path / "work" / "chains").rglob("*.samples.arrow")).unlink()
    assert prepare(config).ids == before.ids
    path.write_text(path.read_text().replace('"count": 60', '"count": 59'))
    next((tmp_path / "work" / "chains").rglob("*.samples.arrow")).unlink()
    with pytest.raises(DataError, match="statistics are lost"):
        prepare(config)


def test_figures_of_all_rows_come_too_late_for_training_that_has_begun(tmp_path):
    with pytest.raises(ValidationError, match=r"too late for prepare\.mode ahead"):
        table_config(tmp_path, {"clean": STEPS, "statistics": "all", "mode": "ahead"})
