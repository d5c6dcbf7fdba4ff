import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.data import SplitSection
from orchestrator.data.shards.split import TEST, TRAIN, VALIDATION, split_groups, split_of

KEYS = [f"sample{i}" for i in range(20_000)]


@given(st.lists(st.text(max_size=8), unique=True, max_size=20), st.randoms())
def test_split_of_a_key_depends_on_no_other_key(keys, random):
    split = SplitSection(validation=0.3, test=0.2)
    whole = dict(zip(keys, split_of("s", "s/a.tar", keys, split), strict=True))
    random.shuffle(keys)
    some = keys[: len(keys) // 2]
    assert dict(zip(some, split_of("s", "s/a.tar", some, split), strict=True)) == {key: whole[key] for key in some}


def test_shares_are_those_asked_for():
    chosen = split_of("s", "s/a.tar", KEYS, SplitSection(validation=0.1, test=0.05))
    assert abs((chosen == VALIDATION).mean() - 0.1) < 0.01
    assert abs((chosen == TEST).mean() - 0.05) < 0.01


def test_no_share_means_all_is_for_training():
    assert (split_of("s", "s/a.tar", KEYS, SplitSection()) == TRAIN).all()


def test_source_and_shard_matter():
    split = SplitSection(validation=0.5)
    first = split_of("s", "s/a.tar", KEYS, split)
    assert not np.array_equal(first, split_of("t", "s/a.tar", KEYS, split))
    assert not np.array_equal(first, split_of("s", "s/b.tar", KEYS, split))


def test_a_test_share_added_later_leaves_validation_alone():
    without = split_of("s", "s/a.tar", KEYS, SplitSection(validation=0.1))
    added = split_of("s", "s/a.tar", KEYS, SplitSection(validation=0.1, test=0.2))
    assert np.array_equal(without == VALIDATION, added == VALIDATION)


@given(st.integers(2, 12), st.floats(0, 0.9), st.sampled_from(["samples", "groups"]))
def test_every_sample_outside_of_test_is_for_validation_in_one_fold_and_for_training_in_the_others(folds, test, of):
    keys = KEYS[:500]
    splits = [SplitSection(folds=folds, fold=fold, test=test) for fold in range(folds)]
    chosen = np.stack(
        [split_of("s", "s/a.tar", keys, split) if of == "samples" else split_groups(keys, split) for split in splits]
    )
    is_test = (chosen == TEST).any(axis=0)
    assert ((chosen == TEST) == is_test).all()
    assert ((chosen == VALIDATION).sum(axis=0) == ~is_test).all()
    assert ((chosen == TRAIN).sum(axis=0) == (folds - 1) * ~is_test).all()


def test_folds_are_of_about_one_size_beside_the_same_test_share_as_without():
    chosen = [split_of("s", "s/a.tar", KEYS, SplitSection(folds=5, fold=fold, test=0.2)) for fold in range(5)]
    assert all(abs((one == VALIDATION).mean() - 0.16) < 0.01 for one in chosen)
    without = split_of("s", "s/a.tar", KEYS, SplitSection(test=0.2))
    assert np.array_equal(chosen[0] == TEST, without == TEST)
