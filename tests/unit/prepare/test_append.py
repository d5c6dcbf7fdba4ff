"""Data that comes later is compared with what is there already: with verdicts that are kept, not with its shards."""

import os
import random
import shutil

import pytest

from orchestrator.core.errors import DataError
from orchestrator.core.mapping import run_serially
from orchestrator.data.shards.source import order_append
from orchestrator.prepare.run import prepare
from orchestrator.storage.local import map_local
from tests.fakes.copies import NEAR, config_of, drops_of, make_pages, make_varied, published, write_varied
from tests.fakes.shards import read_tree, write_texts

FIRST, LATER = 4, 5


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def write_stream(folder, names, stream):
    """Shards that have these names, the texts in the order in which they will be numbered."""
    for name, texts in zip(order_append(["data"], [1.0], [f"data/{name}" for name in names]), stream, strict=True):
        write_texts(folder.parent / name, texts)


@pytest.fixture(scope="module")
def stream():
    rng = random.Random(8)
    told, pages = [], make_pages(rng, 30 * (FIRST + LATER))
    shards = [make_varied(rng, 25, told) for _ in range(FIRST + LATER)]
    return [
        texts | {f"p{i}": page for i, page in enumerate(pages[30 * shard : 30 * shard + 30])}
        for shard, texts in enumerate(shards)
    ]


def drops_at(manifest):
    return {sample: (row["rule"], row["partner_ordinal"], row["partner_place"], row["score"])
            for sample, row in drops_of(manifest).items()}  # fmt: skip


@pytest.mark.parametrize("section", [NEAR, {"dedup": {}}], ids=["near", "exact"])
def test_appended_data_gets_the_verdicts_of_one_preparation_that_had_it_at_the_end(tmp_path, stream, section):
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    write_stream(grown / "data", [f"a{i}.tar" for i in range(FIRST)], stream[:FIRST])
    first = prepare(config_of(grown, section))
    before = published(grown)
    write_stream(grown / "data", [f"b{i}.tar" for i in range(LATER)], stream[FIRST:])
    both = prepare(config_of(grown, section))
    write_stream(whole / "data", [f"{i}.tar" for i in range(FIRST + LATER)], stream)
    assert both.ids[: len(first.ids)] == first.ids
    assert {name: published(grown)[name] for name in before} == before
    assert drops_at(both) == drops_at(prepare(config_of(whole, section)))
    across = [row for (ordinal, _), row in drops_of(both).items() if ordinal >= FIRST > row["partner_ordinal"]]
    assert len(across) > 5


def test_appended_data_reads_earlier_shards_only_to_compare_texts_exactly(tmp_path, monkeypatch):
    write_varied(tmp_path / "data", range(4))
    prepare(config_of(tmp_path, NEAR))
    opened, signed = set(), []

    def map_and_tell(url):
        opened.add(url.rsplit("/", 1)[1])
        return map_local(url)

    def watch(function, jobs):
        jobs = list(jobs)
        signed.extend(job.shard.name for job in jobs if function.__name__ == "sign_shard")
        return run_serially(function, jobs)

    monkeypatch.setattr("orchestrator.storage.stores.map_local", map_and_tell)
    write_varied(tmp_path / "data", [5], seed=77)  # texts that nobody has told
    prepare(config_of(tmp_path, NEAR), watch)
    assert (signed, opened) == (["data/0005.tar"], {"0005.tar"})
    write_varied(tmp_path / "data", [6])
    prepare(config_of(tmp_path, NEAR), watch)
    assert signed == ["data/0005.tar", "data/0006.tar"]
    assert {"0006.tar"} < opened


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    write_varied(root / "data", range(7), documents=15)
    prepare(config_of(root, NEAR))
    return root


@pytest.mark.parametrize(
    "patterns",
    [
        ["chains/*/*-00000.roll.arrow"],
        ["chains/*/*-00001.roll.arrow"],
        ["chains/*/*.verdicts.arrow"],
        ["chains/*/*-00001.verdicts.arrow", "chains/*/*-00000.roll.arrow"],
        ["chains/*/*.roll.arrow", "signs/*/*/*"],
        ["chains/*/*.[drv]*.arrow", "signs/*/*/*", "prepared/*/*/*"],
        ["prepared/*/*/*.tokens"],
        ["prepared/*/*/*.samples.arrow", "chains/*/*.samples.arrow"],
    ],
    ids=" ".join,
)
def test_lost_tables_are_made_again(prepared, tmp_path, patterns):
    shutil.copytree(prepared / "data", tmp_path / "data")
    shutil.copytree(prepared / "work", tmp_path / "work")
    lost = [path for pattern in patterns for path in (tmp_path / "work").glob(pattern)]
    for path in lost:
        path.unlink()
    assert lost
    prepare(config_of(tmp_path, NEAR))
    assert published(tmp_path) == published(prepared)


def test_signatures_may_be_deleted_once_all_is_committed(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "work" / "signs")
    prepare(config_of(tmp_path, NEAR))
    write_varied(tmp_path / "data", [8], documents=15)
    prepare(config_of(tmp_path, NEAR))
    assert len(list((tmp_path / "work" / "signs").glob("*/*/*"))) == 1


@pytest.mark.parametrize("table", ["*-00000.roll", "*-00001.verdicts", "signs"])
def test_a_table_of_another_format_is_refused_by_name(prepared, tmp_path, table):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    pattern = "signs/*/*/*.arrow" if table == "signs" else f"chains/*/{table}.arrow"
    changed = list((tmp_path / "work").glob(pattern))
    for path in changed:
        data = path.read_bytes()
        assert data.count(b'"format": 1') == 2  # Arrow writes the note before and after
        path.write_bytes(data.replace(b'"format": 1', b'"format": 2'))
    if table == "signs":  # they are looked at if the roll is to be called again
        next((tmp_path / "work").glob("chains/*/*-00000.roll.arrow")).unlink()
    write_varied(tmp_path / "data", [8], documents=15)
    with pytest.raises(DataError, match="format is 2, this Longhaul reads 1") as caught:
        prepare(config_of(tmp_path, NEAR))
    assert caught.value.where in map(str, changed)
    assert caught.value.remedy == f"delete {caught.value.where} and run longhaul prepare again"
    for path in changed:
        path.unlink()
    prepare(config_of(tmp_path, NEAR))
    after = published(tmp_path)
    assert {name: data for name, data in published(prepared).items() if after.get(name, data) != data} == {}


def test_signatures_of_another_algorithm_are_not_used(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    before = read_tree(tmp_path / "work")
    monkeypatch.setattr("orchestrator.prepare.near.documents.ALGORITHM", "near 999")
    stages = []
    prepare(config_of(tmp_path, NEAR), progress=lambda stage, done, total: stages.append((stage, done)))
    assert ("sign", 7) in stages
    after = read_tree(tmp_path / "work")
    assert {name: after[name] for name in before} == before
    assert len({name.split("/")[1] for name in after if name.startswith("chains")}) == 2
