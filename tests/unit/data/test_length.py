"""A run's length in epochs or tokens becomes steps: checked by taking the steps."""

import json
from collections import Counter
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.config.compare import check_resume
from orchestrator.config.resolve import Decision, undecide
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError, DataError
from orchestrator.data.ordering.length import resolve_length
from orchestrator.data.ordering.order import Order
from tests.fakes.corpus import make_corpus

TEXT = {"prepare": {"tokens": {"train_bpe": 300}}, "task": {"seq_len": 7}}
IMAGES = {"task": {"name": "image_classification"}}


def make_config(manifest, *, length, kind=TEXT, weights=None, global_batch=6, phases=()):
    weights = weights or [1.0] * len(manifest.source_names)
    sources = [{"path": f"/x/{n}", "weight": w} for n, w in zip(manifest.source_names, weights, strict=True)]
    data = {"train": sources, "window_samples": 12, "run_samples": 2, "phases": list(phases)}
    if kind is IMAGES:
        data["fields"] = {"image": {"members": ["jpg"]}}
    train = {**length, "global_batch": global_batch}
    model = {"transformers": {"model_type": "llama"}}
    return RunConfig.model_validate({"name": "a", "data": data, "train": train, "model": model, **kind})


def resolved(manifest, **options):
    """The config with its length in steps, the order it defines, and every slot that is fed."""
    config, _ = resolve_length(make_config(manifest, **options), manifest)
    order = Order.of(config, manifest)
    return config, order, [order.slots(step) for step in range(config.train.num_steps)]


@pytest.mark.parametrize("kind", [TEXT, IMAGES], ids=["text", "images"])
@pytest.mark.parametrize("epochs", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("global_batch", [1, 5, 64, 5000])
def test_whole_epochs_feed_everything_as_often_and_nothing_more(kind, epochs, global_batch):
    manifest = make_corpus(4, shards_by_segment=((6,), (4,), (3,)))
    _, order, fed = resolved(manifest, length={"epochs": epochs}, kind=kind, global_batch=global_batch)
    taken = Counter(
        (int(unit), int(index)) for slots in fed for unit, index in zip(slots.unit, slots.index, strict=True)
    )
    units = range(3 + int(epochs) - 1)
    assert taken == Counter((unit, index) for unit in units for index in range(order.unit(0, unit).count))
    assert {slots.position.size for slots in fed[:-1]} <= {global_batch}


def test_part_of_an_epoch_is_taken_exactly_and_rounded_up():
    manifest = make_corpus(4, shards_by_segment=((60,),), most_documents=12)
    _, order, fed = resolved(manifest, length={"epochs": 2.1}, global_batch=7)
    count = order.unit(0, 0).count
    assert count % 10
    assert sum(slots.position.size for slots in fed) == 2 * count + -(-count // 10)
    _, _, fed = resolved(manifest, length={"epochs": 1e-9}, global_batch=7)
    assert sum(slots.position.size for slots in fed) == 1


@settings(max_examples=40, deadline=None)
@given(
    corpus_seed=st.integers(0, 50),
    epochs=st.floats(0.1, 3.0).map(lambda value: round(value, 2)),
    weights=st.tuples(st.floats(0.2, 1.0), st.floats(0.2, 1.0)),
    gaps=st.lists(
        st.tuples(st.integers(1, 9), st.none() | st.integers(1, 30), st.none() | st.integers(1, 20)), max_size=4
    ),
)
def test_epochs_are_over_with_the_last_sample_of_the_largest_source(corpus_seed, epochs, weights, gaps):
    manifest = make_corpus(corpus_seed, most_documents=12)
    phases = [
        {"from_step": sum(gap for gap, *_ in gaps[: n + 1]), "global_batch": batch, "seq_len": seq_len}
        for n, (_, batch, seq_len) in enumerate(gaps)
    ]
    try:
        _, order, fed = resolved(manifest, length={"epochs": epochs}, weights=weights, phases=phases)
    except DataError:
        return  # a source happened to be empty
    main = order.main_source
    last = max(fed[-1].position)
    assert fed[-1].source[fed[-1].position == last] == main
    assert order.epochs(fed[-1])[fed[-1].source == main].max() == np.ceil(epochs) - 1
    if epochs == int(epochs):
        following = order.slots_of(range(len(fed), len(fed) + 30))
        of_main = following.take(np.flatnonzero(following.source == main)[:1])
        assert order.epochs(of_main).tolist() == [epochs]


@settings(max_examples=40, deadline=None)
@given(
    corpus_seed=st.integers(0, 50),
    tokens=st.integers(1, 3000),
    batches=st.tuples(st.integers(1, 9), st.integers(1, 20)),
    seq_len=st.none() | st.integers(1, 20),
)
@example(
    corpus_seed=0, tokens=640, batches=(3, 1), seq_len=20
)  # a short sequence comes early in a unit that another length began
def test_tokens_are_fed_in_full_and_hardly_more(corpus_seed, tokens, batches, seq_len):
    manifest = make_corpus(corpus_seed, shards_by_segment=((5, 3), (4, 2), (2, 1)), most_documents=12)
    phases = [{"from_step": 5, "global_batch": batches[1], "seq_len": seq_len}]
    try:
        _, order, fed = resolved(manifest, length={"tokens": tokens}, global_batch=batches[0], phases=phases)
    except DataError:
        return
    targets = [
        sum(span.count for i in range(slots.position.size) for span in order.spans(slots, i)) - slots.position.size
        for slots in fed
    ]
    assert sum(targets) >= tokens
    units = {(source, unit) for slots in fed for source, unit in zip(slots.source, slots.unit, strict=True)}
    assert sum(targets[:-1]) < tokens + len(units) * max(7, seq_len or 7)


def test_a_short_sequence_is_expected_from_its_unit_on():
    """Steps that would do if every sequence were full are not enough when one of them may be short."""
    manifest = make_corpus(4, shards_by_segment=((60,),), most_documents=12)
    order = Order.of(make_config(manifest, length={"steps": 1}), manifest)
    short = order.unit(0, 0).count * 7 - (order.unit(0, 0).total - 1)
    assert short
    assert resolved(manifest, length={"tokens": 42 - short})[0].train.steps == 1
    assert resolved(manifest, length={"tokens": 42 - short + 1})[0].train.steps == 2


def test_targets_are_counted_through_a_change_of_length_in_a_later_pass():
    manifest = make_corpus(4, shards_by_segment=((6,), (4,), (3,)))
    phases = [{"from_step": 150, "seq_len": 5}]
    order = Order.of(make_config(manifest, length={"steps": 1}, phases=phases), manifest)
    [index] = order.row_places(150).values()
    assert order.rows[0].epoch_of(order.rows[0].locate(np.array([index]))[0][0]) > 3
    ends = [order.rows[0].index_after(epochs) for epochs in range(1, 20)]
    for before, after in pairwise([index, *(end for end in ends if end > index)]):
        counted = order.rows[0].count_targets(after) - order.rows[0].count_targets(before)
        assert counted == manifest.totals("train").sum() - 1  # all but the first token, short sequences as short


@pytest.mark.parametrize(
    "length", [{"epochs": 1.5}, {"epochs": 2.0}, {"tokens": 999}, {"steps": 9}], ids=lambda length: next(iter(length))
)
def test_what_was_asked_for_can_be_put_back_and_decided_again(length):
    manifest = make_corpus(4)
    phases = [{"from_step": 4, "global_batch": 9}, {"from_step": 10**6, "global_batch": 1}]
    asked = make_config(manifest, length=length, phases=phases)
    config, decisions = resolve_length(asked, manifest)
    assert (config.train.epochs, config.train.tokens) == (None, None)
    assert all(decision.why for decision in decisions)
    assert undecide(config, decisions) == asked
    assert resolve_length(undecide(config, decisions), manifest) == (config, decisions)
    assert resolve_length(config, manifest) == (config, [])


def test_a_resume_compares_what_was_asked_for():
    """The way of launch/run.py: decisions come back from plan.json, then the config to go on with is compared."""
    manifest = make_corpus(4)
    asked = make_config(manifest, length={"epochs": 1.5})
    config, decisions = resolve_length(asked, manifest)
    stored = [Decision(**value) for value in json.loads(json.dumps([asdict(decision) for decision in decisions]))]
    base = undecide(config, stored)
    check_resume(base, asked)
    changed = make_config(manifest, length={"epochs": 1.25})
    with pytest.raises(ConfigError, match=r"train\.epochs: makes another run of it \(the run has 1\.5, now 1\.25\)"):
        check_resume(base, changed)


def test_the_last_batch_becomes_a_phase_among_those_that_were_stated():
    manifest = make_corpus(4, shards_by_segment=((30,),), most_documents=12)
    count = Order.of(make_config(manifest, length={"steps": 1}), manifest).rows[0].epoch_count
    steps, rest = count // 6 + 1, count % 6
    assert rest
    stated = [{"from_step": 2, "global_batch": 6}, {"from_step": steps - 1, "weights": {"source0": 3.0}}]
    late = {"from_step": steps, "global_batch": 50}
    config, *_ = resolved(manifest, length={"epochs": 1.0}, phases=[*stated, late])
    assert config.train.steps == steps
    assert [phase.model_dump(exclude_none=True) for phase in config.data.phases] == [
        stated[0],
        {**stated[1], "global_batch": rest},
        late,
    ]


def test_a_last_batch_that_is_full_needs_no_phase():
    manifest = make_corpus(4, shards_by_segment=((6,),))
    config, *_ = resolved(manifest, length={"epochs": 3.0}, global_batch=1)
    assert config.data.phases == []


def test_epochs_of_a_source_that_is_left_out_too_early_are_refused():
    manifest = make_corpus(4)
    phases = [{"from_step": 2, "weights": {"source0": 0.0, "source1": 1.0}}]
    with pytest.raises(ConfigError, match=r"train\.epochs: 2 passes over 'source0' are never over"):
        resolved(manifest, length={"epochs": 2.0}, weights=[2.0, 1.0], phases=phases)


def test_a_source_that_comes_back_is_waited_for():
    manifest = make_corpus(4, shards_by_segment=((30, 9),), most_documents=12)
    without = {"from_step": 2, "weights": {"source0": 0.0, "source1": 1.0}}
    again = {"from_step": 30, "weights": {"source0": 1.0, "source1": 1.0}}
    _, order, fed = resolved(manifest, length={"epochs": 1.0}, weights=[2.0, 1.0], phases=[without, again])
    assert len(fed) > 30
    assert sum(int((slots.source == 0).sum()) for slots in fed) == order.rows[0].epoch_count


@pytest.mark.parametrize("wrong", [{}, {"steps": 3, "epochs": 1.0}, {"epochs": 1.0, "tokens": 5}, {"epochs": 0.0}])
def test_a_run_states_its_length_in_one_way(wrong):
    with pytest.raises(
        ValueError, match=r"exactly one of train\.steps, train\.epochs and train\.tokens|greater than 0"
    ):
        make_config(make_corpus(0), length=wrong)


def test_samples_that_are_not_text_cannot_be_counted_in_tokens():
    with pytest.raises(ValueError, match=r"has no tokens: state train\.epochs or train\.steps"):
        make_config(make_corpus(0), length={"tokens": 5}, kind=IMAGES)


def test_steps_are_not_known_before_they_are_decided():
    with pytest.raises(ValueError, match=r"decided by data/ordering/length\.py"):
        _ = make_config(make_corpus(0), length={"epochs": 1.0}).train.num_steps


def test_tokens_become_steps_as_far_as_segments_are_prepared_and_are_refused_beyond():
    manifest = make_corpus(4, shards_by_segment=((16,), (4,), (4,)), most_documents=12)
    early = manifest.prepared(1)
    known = Order.of(make_config(manifest, length={"steps": 1}), manifest).unit(0, 0).total
    for tokens in range(known // 4, known - 60, 100):
        config = make_config(manifest, length={"tokens": tokens})
        assert resolve_length(config, early)[0] == resolve_length(config, manifest)[0]
    with pytest.raises(ConfigError, match=r"train.tokens=100000: .* prepared, .*\n.*train.steps \(2381 feed"):
        resolve_length(make_config(manifest, length={"tokens": 100_000}), early)
