"""The run hash and the comparison of configs follow the marks, for every key there is."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from orchestrator.config.check import replace_values
from orchestrator.config.compare import changed_keys, check_resume, mark_at, run_hash
from orchestrator.config.marks import Mark, Section, mark_of
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError

CONFIG = RunConfig.model_validate(
    {
        "name": "base",
        "data": {
            "train": [{"path": "a"}, {"path": "b", "weight": 2.0}],
            "split": {"validation": 0.1},
            "phases": [{"from_step": 5, "seq_len": 32}],
        },
        "prepare": {"tokens": {"train_bpe": 512}},
        "model": {"transformers": {"model_type": "llama", "hidden_size": 64}},
        "train": {"steps": 10, "global_batch": 24},
        "evaluate": {"every_steps": 5},
        "deepspeed": {"zero_optimization": {"stage": 2}},
        "cluster": {"nodes": {"min": 1, "max": 2}},
    }
)

# These have one value only, or exclude each other: no second valid config differs in them alone.
ALONE = {
    "data.augment",
    "data.mixup",
    "data.fields",
    "data.split.folds",
    "data.table",
    "train.epochs",
    "train.tokens",
    "prepare.mode",
    "prepare.tokens.tokenizer",
    "model.pretrained",
    "model.linear",
    "model.mlp",
    "model.cnn",
    "model.rnn",
    "model.custom",
    "model.new_head",
    "model.lora",
    "task.name",
    "task.loss.label_smoothing",
    "task.loss.class_weights",
    "task.loss.delta",
}
CANDIDATES: list[Any] = [
    True,
    False,
    1,
    2,
    3,
    64,
    600,
    0.25,
    0.5,
    2.5,
    "perplexity",
    "other",
    [],
    ["other"],
    [0.5, 0.25],
]
CANDIDATES += [
    "text",
    [{"name": "resize"}],
    {},
    {"a": 1.0},
    "s3://bucket/kept",
    {"A": "1"},
    {"model_type": "gpt2"},
    {"zero_optimization": {"stage": 3}},
]


def leaves(section: Section, prefix: str = "") -> Iterator[tuple[str, Mark, Any, Any]]:
    """Key, mark, value and annotation of every innermost key."""
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), prefix + name
        if isinstance(value, Section):
            yield from leaves(value, f"{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Section):
            for i, entry in enumerate(value):
                yield from leaves(entry, f"{key}.{i}.")
        else:
            yield key, mark_of(field), value, field.annotation


def with_another_value(key: str, value: Any, annotation: Any) -> RunConfig:
    """CONFIG with some other value of one key: the first that passes every check."""
    for candidate in (*CANDIDATES, *get_args(annotation)):
        if candidate != value and isinstance(candidate, str | bool | int | float | list | dict):
            with suppress(ValidationError):
                return replaced(CONFIG, key, candidate)
    raise AssertionError(f"no other value known for {key}")


def replaced(config: RunConfig, key: str, value: Any) -> RunConfig:
    values = config.model_dump(mode="json")
    here: Any = values
    *parts, name = (int(part) if part.isdecimal() else part for part in key.split("."))
    for part in parts:
        here = here[part]
    here[name] = value
    return RunConfig.model_validate(values)


LEAVES = [leaf for leaf in leaves(CONFIG) if leaf[0] not in ALONE]


@pytest.mark.parametrize(("key", "mark", "value", "annotation"), LEAVES, ids=[leaf[0] for leaf in LEAVES])
def test_exactly_the_identity_keys_change_the_hash_and_forbid_a_resume(key, mark, value, annotation):
    other = with_another_value(key, value, annotation)
    (change,) = changed_keys(CONFIG, other)
    assert (change.key, change.mark) == (key, mark)
    assert (run_hash(other) != run_hash(CONFIG)) is (mark is Mark.IDENTITY)
    if mark is Mark.IDENTITY:
        with pytest.raises(ConfigError, match=f"^{key}: makes another run"):
            check_resume(CONFIG, other)
    else:
        check_resume(CONFIG, other)


def test_spelled_out_defaults_leave_the_hash_alone():
    sparse = {"name": "x", "data": {"train": [{"path": "a"}]}, "prepare": {"tokens": {"train_bpe": 512}}}
    sparse |= {"model": {"transformers": {"model_type": "llama"}}, "train": {"steps": 10, "global_batch": 24}}
    config = RunConfig.model_validate(sparse)
    assert run_hash(RunConfig.model_validate(config.model_dump(mode="json"))) == run_hash(config)


def test_the_hash_stays_what_it_was_in_earlier_versions():
    """Change this value only together with the reason why all running runs become others."""
    assert run_hash(CONFIG) == "28d3bf0adc11586b"


def test_columns_of_a_table_are_part_of_the_run_whether_they_are_names_or_sections():
    values = CONFIG.model_dump(mode="json")
    values |= {"task": {"name": "tabular_regression"}, "model": {"linear": {}}, "prepare": {}, "evaluate": {}}
    category = {"name": "a", "values": ["x", "y"]}
    hashes = set()
    for columns in (["a", "b"], ["b", category], [category, "b"], [category]):
        values["data"] = {"train": [{"path": "a"}], "table": {"columns": columns, "target": "c"}}
        hashes.add(run_hash(RunConfig.model_validate(values | {"checkpoint": {}})))
    assert len(hashes) == 4


def test_another_number_of_sources_is_another_run_even_if_they_are_all_default():
    one = replaced(CONFIG, "data.train", [{"path": "a"}])
    two = replaced(CONFIG, "data.train", [{"path": "a"}, {"path": "b"}])
    assert run_hash(one) != run_hash(two)
    (change,) = changed_keys(one, two)
    assert (change.key, change.mark) == ("data.train", Mark.IDENTITY)


def test_every_identity_key_that_changed_is_named_with_both_values():
    other = replace_values(CONFIG, {"seed": 3, "train.global_batch": 48, "tracking.wandb.project": "p"})
    with pytest.raises(ConfigError) as caught:
        check_resume(CONFIG, other)
    assert str(caught.value).splitlines() == [
        "seed: makes another run of it (the run has 0, now 3)",
        "train.global_batch: makes another run of it (the run has 24, now 48)",
        "  -> take the run's own value back, or start a new run under another name than base",
    ]


def test_marks_are_found_by_dotted_key():
    assert mark_at("train.micro_batch") is Mark.ROUNDING
    assert mark_at("tracking.wandb.mode") is Mark.FREE
    assert mark_at("seed") is Mark.IDENTITY


PLATEAU = replace_values(CONFIG, {"schedule.name": "plateau"})


@pytest.mark.parametrize(
    ("key", "value"), [("evaluate.every_steps", 2), ("evaluate.max_batches", 3), ("evaluate.best_by", "perplexity")]
)
def test_what_a_plateau_follows_is_part_of_the_run(key, value):
    other = replace_values(PLATEAU, {key: value})
    assert run_hash(other) != run_hash(PLATEAU)
    with pytest.raises(ConfigError, match=f"^{key}: makes another run"):
        check_resume(PLATEAU, other)
    check_resume(CONFIG, replace_values(CONFIG, {key: value}))
