"""DeepSpeed's keys: allowed, owned or refused, each known by name; the page for people says the same."""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.deepspeed_check import check_deepspeed
from orchestrator.config.deepspeed_keys import ALLOWED, COUNT, OWNED, REFUSED, SWITCH, in_words
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError

PAGE = Path(__file__).parents[3] / "docs" / "deepspeed.md"


def config_with(deepspeed, **train) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "x",
            "data": {"train": [{"path": "x"}]},
            "prepare": {"tokens": {"train_bpe": 512}},
            "model": {"transformers": {"model_type": "llama"}},
            "train": {"steps": 10, "global_batch": 24, "micro_batch": 4, "clip_norm": 1.0} | train,
            "deepspeed": deepspeed,
        }
    )


def problems_in(deepspeed, **train) -> dict[str, str]:
    """Problems by key. The section is put in past the check that RunConfig makes."""
    config = config_with({}, **train).model_copy(update={"deepspeed": deepspeed})
    return {problem.key.removeprefix("deepspeed."): str(problem) for problem in check_deepspeed(config)}


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def installed_zero_keys() -> set[str]:
    """Keys of the installed DeepSpeed's ZeRO section, read from its source: importing it takes seconds."""
    spec = find_spec("deepspeed")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0], "runtime", "zero", "config.py").read_text()
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    section = next(node for node in classes if node.name == "DeepSpeedZeroConfig")
    keys = set()
    for field in section.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            keywords = field.value.keywords if isinstance(field.value, ast.Call) else []
            alias = [k.value.value for k in keywords if k.arg == "alias" and isinstance(k.value, ast.Constant)]
            keys.add(f"zero_optimization.{alias[0] if alias else field.target.id}")
    return keys


def test_every_zero_key_of_the_installed_deepspeed_is_decided_about():
    known = {".".join(key.split(".")[:2]) for key in (*ALLOWED, *REFUSED)}
    assert installed_zero_keys() - known == set()


def test_no_key_is_in_two_tables():
    assert len({*ALLOWED, *OWNED, *REFUSED}) == len(ALLOWED) + len(OWNED) + len(REFUSED)


@pytest.mark.parametrize("key", ALLOWED)
def test_an_allowed_key_takes_its_values_and_no_others(key):
    takes = ALLOWED[key].takes
    good = takes if isinstance(takes, tuple) else {SWITCH: (True, False), COUNT: (0, 500_000, 5e8)}[takes]
    for value in good:
        deepspeed = nested(key, value)
        deepspeed["zero_optimization"] = {"stage": 3} | deepspeed.get("zero_optimization", {})
        assert problems_in(deepspeed) == {}
    for value in ("auto", "surely not", [1], None, -1, 1.5):
        assert in_words(takes) in problems_in(nested(key, value))[key]


@pytest.mark.parametrize("key", REFUSED)
def test_a_refused_key_is_refused_with_its_reason(key):
    assert REFUSED[key] in problems_in(nested(key, 1))[key]


@pytest.mark.parametrize("key", OWNED)
def test_an_owned_key_may_be_auto_or_equal_and_nothing_else(key):
    ours = OWNED[key].value(config_with({}))
    assert problems_in(nested(key, "auto")) == {}
    if ours is not None:
        assert problems_in(nested(key, ours)) == {}
    assert OWNED[key].by in problems_in(nested(key, 17))[key]


def test_an_unknown_key_gets_the_nearest_name():
    assert "did you mean 'overlap_comm'?" in str(problems_in({"zero_optimization": {"overlap_com": True}}))
    assert "did you mean 'zero_optimization'?" in str(problems_in({"zero_optimisation": {"stage": 2}}))


def test_a_section_written_as_a_value_is_refused():
    assert "must be a section" in str(problems_in({"zero_optimization": 2}))


def test_offloading_needs_a_stage_that_has_it():
    offload = {"offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}}
    assert set(problems_in({"zero_optimization": offload})) == {
        "zero_optimization.offload_optimizer.device",
        "zero_optimization.offload_param.device",
    }
    assert set(problems_in({"zero_optimization": {"stage": 2, **offload}})) == {
        "zero_optimization.offload_param.device"
    }
    assert problems_in({"zero_optimization": {"stage": 3, **offload}}) == {}


def test_accumulating_in_another_precision_needs_a_sharded_optimizer():
    accumulate = {"data_types": {"grad_accum_dtype": "fp32"}}
    assert "must be train.precision (bf16)" in str(problems_in(accumulate))
    assert problems_in(accumulate, precision="fp32") == {}
    assert problems_in({"zero_optimization": {"stage": 1}, **accumulate}) == {}


def test_a_config_with_a_refused_key_cannot_be_made():
    with pytest.raises(ValueError, match=r"zero_optimization\.round_robin_gradients: is refused"):
        config_with({"zero_optimization": {"round_robin_gradients": True}})


def test_the_config_error_names_file_and_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: x\ndata: {train: [{path: x}]}\nprepare: {tokens: {train_bpe: 512}}\n"
        "model: {transformers: {model_type: llama}}\ntrain: {steps: 9, global_batch: 8}\n"
        "deepspeed:\n  zero_optimization:\n    stage: 7\n"
    )
    with pytest.raises(
        ConfigError, match=r"run.yaml:8: deepspeed.zero_optimization.stage: must be 0 or 1 or 2 or 3 \(7\)"
    ):
        load_config(path)


def test_the_page_for_people_says_what_the_tables_say():
    rows = [
        tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `")
    ]
    allowed = [(k, in_words(a.takes), ", ".join(map(str, a.stages)), a.note) for k, a in ALLOWED.items()]
    assert rows == [*allowed, *((k, o.by) for k, o in OWNED.items()), *REFUSED.items()]
