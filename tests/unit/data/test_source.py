import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.data import DataSection
from orchestrator.core.errors import DataError
from orchestrator.data.shards.source import Dataset, History
from orchestrator.storage.local import Listed
from tests.fakes.shards import write_dataset


def section(*weights, **keys):
    sources = [{"path": f"/x/s{i}", "weight": weight} for i, weight in enumerate(weights)]
    return DataSection.model_validate({"train": sources, **keys})


def listing(names, source=0, size=10):
    return [Listed(name=f"{n}.tar", url=f"/x/s{source}/{n}.tar", size_bytes=size, stamp=str(n)) for n in names]


def commit(dataset, count):
    """The history after `count` segments were committed."""
    segments = dataset.segments[:count]
    stop = segments[-1].ordinals.stop if segments else 0
    return History(names=[shard.name for shard in dataset.shards[:stop]], segments=segments)


def names_of(dataset):
    return [shard.name for shard in dataset.shards]


sizes = st.lists(st.integers(0, 30), min_size=1, max_size=3).filter(any)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), min_size=2, max_size=2), min_size=1, max_size=4), st.integers(1, 5))
def test_appending_never_changes_an_ordinal(growth, segment_shards):
    data = section(1.0, 2.5, segment_shards=segment_shards)
    totals, before = [0, 0], None
    for added in growth:
        totals = [total + more for total, more in zip(totals, added, strict=True)]
        history = commit(before, len(before.segments)) if before else History()
        dataset = Dataset.extend(data, history, [listing(range(max(1, n)), i) for i, n in enumerate(totals)])
        if before:
            assert names_of(dataset)[: len(before.shards)] == names_of(before)
            assert dataset.segments[: len(before.segments)] == before.segments
        assert sorted(names_of(dataset)) == sorted(set(names_of(dataset)))
        assert [ordinal for segment in dataset.segments for ordinal in segment.ordinals] == list(
            range(len(dataset.shards))
        )
        for segment in dataset.segments:
            assert 0 < len(segment.ordinals) <= segment_shards * 2 ** min(segment.number, 4)
        assert [segment.number for segment in dataset.segments] == list(range(len(dataset.segments)))
        before = dataset


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 20), st.integers(1, 7), st.data())
def test_stopping_inside_an_append_changes_nothing(first, second, segment_shards, choices):
    data = section(1.0, segment_shards=segment_shards)
    one = Dataset.extend(data, History(), [listing(range(first))])
    two = Dataset.extend(data, commit(one, len(one.segments)), [listing(range(first + second))])
    done = choices.draw(st.integers(len(one.segments), len(two.segments)))
    assert Dataset.extend(data, commit(two, done), [listing(range(first + second))]) == two


def test_order_depends_on_names_only():
    a = Dataset.extend(section(1.0), History(), [listing(range(50))])
    b = Dataset.extend(section(1.0), History(), [listing(reversed(range(50)), size=99)])
    assert names_of(a) == names_of(b)
    assert names_of(a) != sorted(names_of(a))


def test_sources_are_interleaved_by_weight():
    data = section(1.0, 3.0, segment_shards=1000)
    dataset = Dataset.extend(data, History(), [listing(range(100), 0), listing(range(100), 1)])
    sources = [shard.source for shard in dataset.shards]
    assert sources[:40].count(1) == 30
    assert sources.count(0) == sources.count(1) == 100


def lengths_of(data, count):
    return [len(segment.ordinals) for segment in Dataset.extend(data, History(), [listing(range(count))]).segments]


def test_segments_double_until_they_have_sixteen_times_as_many_shards():
    assert lengths_of(section(1.0, segment_shards=3), 200) == [3, 6, 12, 24, 48, 48, 48, 11]


def test_segments_are_cut_by_bytes_too_and_double_in_them():
    assert lengths_of(section(1.0, segment_bytes=25), 100) == [2, 5, 10, 20, 40, 23]
    assert lengths_of(section(1.0, segment_bytes=1), 20) == [1] * 20


def test_a_prepared_shard_that_is_gone_is_named():
    data = section(1.0)
    history = commit(Dataset.extend(data, History(), [listing(range(5))]), 1)
    with pytest.raises(DataError, match=r"s0/3\.tar was prepared before and is not listed"):
        Dataset.extend(data, history, [listing([0, 1, 2, 4])])


def test_list_reads_folders_and_names_the_key_of_a_missing_one(tmp_path):
    write_dataset(tmp_path / "a", 3)
    data = DataSection.model_validate({"train": [{"path": str(tmp_path / "a"), "name": "web"}]})
    dataset = Dataset.list(data)
    assert sorted(names_of(dataset)) == [f"web/{i:04d}.tar" for i in range(3)]
    assert dataset.roots == {"web": str(tmp_path / "a")}
    assert all(shard.url == f"{tmp_path}/a/{shard.name.removeprefix('web/')}" for shard in dataset.shards)
    missing = DataSection.model_validate({"train": [{"path": str(tmp_path / "a")}, {"path": str(tmp_path / "b")}]})
    with pytest.raises(DataError, match=r"data\.train\[1\]\.path"):
        Dataset.list(missing)
