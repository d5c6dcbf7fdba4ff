import errno
import os
import shutil

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import DataError
from orchestrator.prepare import shard as shard_module
from orchestrator.prepare.plan import prepare_steps
from orchestrator.prepare.run import index_all, prepare, run_serially
from orchestrator.storage import workplace
from orchestrator.storage.local import map_local
from orchestrator.storage.tables import map_table
from tests.fakes.shards import make_config, read_tree, run_backwards, write_dataset, write_tar, write_texts


def no_jobs(function, jobs):
    raise AssertionError(f"{function.__name__} was to be run")


def published(root):
    """What preparing leaves, without caches that know paths and times of this copy."""
    tree = read_tree(root / "work")
    return {
        name: data for name, data in tree.items() if not name.startswith(("index", "contents")) and "seen-" not in name
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference")
    write_dataset(root / "data", 7)
    prepare(make_config(root))
    return root


def copy_data(reference, root):
    shutil.copytree(reference / "data", root / "data")
    return root


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_second_call_runs_no_job_and_writes_nothing(reference):
    before = read_tree(reference / "work")
    manifest = prepare(make_config(reference), no_jobs)
    assert manifest.num_shards == 7
    assert read_tree(reference / "work") == before


def test_any_order_and_repetition_of_jobs_gives_the_same_bytes(reference, tmp_path):
    prepare(make_config(copy_data(reference, tmp_path)), run_backwards)
    assert published(tmp_path) == published(reference)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_shuffled_completion_gives_the_same_chain(reference, tmp_path_factory, random):
    root = copy_data(reference, tmp_path_factory.mktemp("shuffled"))

    def shuffled(function, jobs):
        results = [function(job) for job in jobs]
        random.shuffle(results)
        return iter(results)

    prepare(make_config(root), shuffled)
    assert published(root) == published(reference)


@pytest.mark.parametrize("after", range(0, 42, 4))
def test_a_kill_at_any_write_is_made_good_by_the_next_call(reference, tmp_path, monkeypatch, after):
    config = make_config(copy_data(reference, tmp_path))
    writes = iter(range(after))
    publish = workplace.publish_bytes

    def publish_or_die(path, data):
        if next(writes, None) is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.1.part").write_bytes(data[: len(data) // 2])
            raise Killed
        publish(path, data)

    monkeypatch.setattr(workplace, "publish_bytes", publish_or_die)
    with pytest.raises(Killed):
        prepare(config)
    monkeypatch.setattr(workplace, "publish_bytes", publish)
    prepare(config)
    whole = {name: data for name, data in published(tmp_path).items() if not name.endswith(".part")}
    assert whole == published(reference)


def test_appended_data_gives_the_same_chain_whether_or_not_stopped(tmp_path):
    for root in (tmp_path / "a", tmp_path / "b"):
        write_dataset(root / "data", 4)
        first = prepare(make_config(root)).ids
        write_dataset(root / "data", 8, first=10)

    def stop_early(function, jobs):
        done = 0
        for job in jobs:
            if function is shard_module.prepare_shard and (done := done + 1) > 5:
                raise Killed
            yield function(job)

    with pytest.raises(Killed):
        prepare(make_config(tmp_path / "b"), stop_early)
    whole, resumed = prepare(make_config(tmp_path / "a")), prepare(make_config(tmp_path / "b"))
    assert whole.ids == resumed.ids
    assert whole.ids[: len(first)] == first
    assert published(tmp_path / "a") == published(tmp_path / "b")


def test_steps_tell_what_is_missing(tmp_path):
    write_dataset(tmp_path / "data", 4)
    config = make_config(tmp_path)
    steps = prepare_steps(config)
    assert (steps.tokenizer, steps.manifest, len(steps.open), steps.finished) == (None, None, 2, False)
    assert not (tmp_path / "work").exists()
    prepare(config)
    assert prepare_steps(config).finished
    write_dataset(tmp_path / "data", 1, first=9)
    steps = prepare_steps(config)
    assert (len(steps.open), len(steps.unseen), steps.finished) == (1, 0, False)


def test_a_copy_with_other_times_and_padding_is_the_same_data(reference, tmp_path):
    shutil.copytree(reference / "work", tmp_path / "work")
    copy_data(reference, tmp_path)
    for path in (tmp_path / "data").iterdir():
        path.write_bytes(path.read_bytes() + bytes(512))
        os.utime(path, (7, 7))
    ran = []

    def watch(function, jobs):
        ran.append(function.__name__)
        return run_serially(function, jobs)

    manifest = prepare(make_config(tmp_path), watch)
    assert ran == ["check_content"]
    assert manifest.ids == prepare(make_config(reference)).ids
    prepare(make_config(tmp_path), no_jobs)


def test_a_changed_shard_under_its_old_name_is_refused(reference, tmp_path):
    copy_data(reference, tmp_path)
    shutil.copytree(reference / "work", tmp_path / "work")
    write_texts(tmp_path / "data" / "0003.tar", {"k": "something else"})
    before = published(tmp_path)
    with pytest.raises(DataError, match=r"shard data/0003\.tar holds other samples") as caught:
        prepare(make_config(tmp_path))
    assert str(tmp_path / "work" / "chains") in caught.value.remedy
    assert published(tmp_path) == before


@pytest.mark.parametrize(
    "pattern", ["prepared/**/*.tokens", "chains/*/*.samples.arrow", "chains/*/*.drops.arrow", "tokenizers/*/*"]
)
def test_lost_files_are_made_again(reference, tmp_path, pattern):
    copy_data(reference, tmp_path)
    config = make_config(tmp_path)
    prepare(config)
    lost = list((tmp_path / "work").glob(pattern))
    assert lost
    for path in lost:
        path.unlink()
    prepare(config)
    assert published(tmp_path) == published(reference)


def test_preparations_with_other_rules_coexist(reference, tmp_path):
    copy_data(reference, tmp_path)
    one, other = make_config(tmp_path), make_config(tmp_path, {"split": {"validation": 0.5}})
    assert prepare(one).ids != prepare(other).ids
    prepare(one, no_jobs)
    prepare(other, no_jobs)


def make_bad(folder):
    write_dataset(folder, 3)
    write_tar(folder / "bad-utf8.tar", [("ok.txt", b"fine"), ("no.txt", b"\xff\xfe")])
    write_tar(folder / "no-text.tar", [("ok.txt", b"fine"), ("no.json", b"{}")])
    write_tar(folder / "scattered.tar", [("a.txt", b"1"), ("ok.txt", b"fine"), ("a.json", b"2")])
    write_tar(folder / "empty.tar", [("ok.txt", b"fine"), ("no.txt", b"")])
    (folder / "garbage.tar").write_bytes(b"nothing " * 1000)
    whole = write_texts(folder / "cut.tar", {"a": "x" * 2000}).read_bytes()
    (folder / "cut.tar").write_bytes(whole[:1000])


def test_skipping_leaves_out_what_is_broken_and_says_why(tmp_path):
    make_bad(tmp_path / "data")
    manifest = prepare(make_config(tmp_path, {"on_bad": "skip"}))
    drops, names = [], manifest.shard_names()
    for head in manifest.segments:
        table = map_table(manifest.work.segment_table(manifest.chain, head.number, "drops"))[0]
        drops += [(names[row["ordinal"]], row["place"], row["rule"]) for row in table.to_pylist()]
    assert sorted(drops) == [
        ("data/bad-utf8.tar", 1, "not UTF-8"),
        ("data/cut.tar", -1, "bad shard"),
        ("data/empty.tar", 1, "empty"),
        ("data/garbage.tar", -1, "bad shard"),
        ("data/no-text.tar", 1, "no text"),
        ("data/scattered.tar", 0, "bad sample"),
        ("data/scattered.tar", 2, "bad sample"),
    ]
    assert sum(head.bad["samples"] for head in manifest.segments) == 4
    assert sum(head.bad["shards"] for head in manifest.segments) == 2
    for ordinal, name in enumerate(names):
        keys = manifest.keys(ordinal, manifest.places(ordinal, "train"))
        if not name.startswith("data/0"):
            assert keys == ([] if "garbage" in name or "cut" in name else ["ok"])
    prepare(make_config(tmp_path, {"on_bad": "skip"}), no_jobs)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("bad-utf8", "no: byte 0 of .txt is no UTF-8"),
        ("no-text", "no: no member .txt, only .json"),
        ("scattered", "a: scattered key"),
        ("garbage", "NotATar"),
        ("cut", "Truncated"),
    ],
)
def test_failing_names_shard_sample_and_remedy(tmp_path, bad, says):
    make_bad(tmp_path / "all")
    write_dataset(tmp_path / "data", 1)
    shutil.copy(tmp_path / "all" / f"{bad}.tar", tmp_path / "data")
    with pytest.raises(DataError, match=says) as caught:
        prepare(make_config(tmp_path))
    assert f"data/{bad}.tar" in str(caught.value)
    assert "data.on_bad=skip" in caught.value.remedy
    assert not list((tmp_path / "work").glob("chains/*/*.json"))


def test_empty_documents_are_no_failure(tmp_path):
    write_texts(tmp_path / "data" / "a.tar", {"a": "some text", "b": "", "c": "more text"})
    manifest = prepare(make_config(tmp_path))
    assert list(manifest.places(0, "train")) == [0, 2]


def test_nothing_to_train_on_is_said(tmp_path):
    write_texts(tmp_path / "data" / "a.tar", {"a": ""})
    with pytest.raises(DataError, match="no training text"):
        prepare(make_config(tmp_path))


def test_index_reports_every_shard(tmp_path):
    make_bad(tmp_path / "data")
    reports = {report.name: report for report in index_all(make_config(tmp_path, {"on_bad": "skip"}), run_backwards)}
    assert len(reports) == 9
    assert (reports["data/scattered.tar"].samples, reports["data/scattered.tar"].bad) == (3, 2)
    assert reports["data/garbage.tar"].problem
    with pytest.raises(DataError):
        index_all(make_config(tmp_path))


def test_demo_is_made_when_missing(tmp_path, monkeypatch):
    from orchestrator.data.shards import demo

    monkeypatch.setattr(demo, "TEXT_BYTES", 100_000)
    config = make_config(tmp_path, {"train": [{"path": str(tmp_path / "demo"), "demo": "text"}]})
    assert prepare(config).totals("train").sum() > 1000
    prepare(config, no_jobs)


def test_full_disk_names_file_and_key(reference, tmp_path, monkeypatch):
    copy_data(reference, tmp_path)

    def refuse(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workplace, "publish_bytes", refuse)
    with pytest.raises(DataError, match=r"No space left(.|\n)*data\.work"):
        prepare(make_config(tmp_path))


def test_a_shard_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write_texts(tmp_path / "data" / "a.tar", {"a": "some text"})

    def map_and_touch(url):
        data = map_local(url)
        os.utime(path, (9, 9))
        return data

    monkeypatch.setattr("orchestrator.storage.stores.map_local", map_and_touch)
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(make_config(tmp_path))


def test_stages_are_told(tmp_path):
    write_dataset(tmp_path / "data", 4)
    told = []
    prepare(make_config(tmp_path), progress=lambda stage, done, total: told.append((stage, done, total)))
    assert [stage for stage, done, total in told if done == total] == ["read", "tokenizer", "prepare"]
    assert ("prepare", 4, 4) in told


def test_tables_have_the_promised_columns(reference):
    manifest = prepare(make_config(reference))
    table, note = map_table(manifest.work.segment_table(manifest.chain, 0, "drops"))
    assert table.column_names == ["ordinal", "place", "rule", "reason", "partner_ordinal", "partner_place", "score"]
    assert note["format"] == 1
    assert table.schema.field("score").type == pa.float64()


def test_segments_that_are_prepared_one_by_one_are_those_that_one_run_prepares(tmp_path):
    for name in ("at-once", "one-by-one"):
        write_dataset(tmp_path / name / "data", 14)
    whole = prepare(make_config(tmp_path / "at-once"))
    for most in (1, 2, 3):
        manifest = prepare(make_config(tmp_path / "one-by-one"), most=most)
        assert (manifest.ids, manifest.segments_to_come) == (whole.ids[:most], 3 - most)
    assert len(prepare(make_config(tmp_path / "one-by-one"), most=1).segments) == 3  # what is there is there


def test_lost_files_are_made_again_though_only_the_first_segment_is_asked_for(tmp_path):
    write_dataset(tmp_path / "data", 8)
    manifest = prepare(make_config(tmp_path))
    manifest.tokens_path(7).unlink()
    prepare(make_config(tmp_path), most=1).check_tokens(7)
