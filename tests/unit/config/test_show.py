"""What is shown of a config can be read back, explained and completed by an editor."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.config.check import known_keys, replace_values
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml, json_schema, show_diff, show_provenance

CONFIGS = Path(__file__).parents[3] / "configs"
TINY = load_config(CONFIGS / "tiny.yaml").config

words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["on", "off", "null", "~", "", "1e3", "12", "1_0", "0x1f", "2020-01-01", "1:30", "<<", "=", ".nan", "true"]
    ),
)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("show")


@settings(deadline=None)
@example(lr=1e-8, tags=["\x85", "a\nb", "\u2028"], extra={})
@given(lr=st.floats(1e-300, 1e300), tags=st.lists(words), extra=st.dictionaries(words, values, max_size=4))
def test_what_is_dumped_loads_as_the_same_config(scratch, lr, tags, extra):
    config = RunConfig.model_validate(
        TINY.model_dump()
        | {
            "optim": {"lr": lr},
            "tracking": {"wandb": {"tags": tags}},
            "model": {"transformers": {**extra, "model_type": "llama"}},
        }
    )
    path = scratch / "config.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8", newline="")
    assert load_config(path).config == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_config_survives_being_dumped(path, scratch):
    config = load_config(path).config
    dumped = scratch / path.name
    dumped.write_text(dump_yaml(config))
    assert load_config(dumped).config == config


def test_provenance_shows_every_key_with_its_place():
    shown = show_provenance(load_config(CONFIGS / "tiny.yaml", sets=["train.steps=3"])).splitlines()
    by_key = {line.split(":")[0]: line for line in shown}
    assert by_key["train.steps"].split("  # ") == [
        by_key["train.steps"].split("  # ")[0],
        "command line: train.steps=3",
    ]
    assert by_key["seed"].endswith("tiny.yaml:5")
    assert by_key["optim.eps"].endswith("# default")
    assert {key for key in known_keys() if "." not in key} <= {key.split(".")[0] for key in by_key}


def test_differences_are_shown_with_their_marks():
    other = replace_values(TINY, {"seed": 9, "train.micro_batch": 3, "root": "elsewhere"})
    assert show_diff(TINY, other).splitlines() == [
        "root [free]: runs -> elsewhere",
        "seed [identity]: 1 -> 9",
        "train.micro_batch [rounding]: auto -> 3",
    ]
    assert show_diff(TINY, TINY) == ""


def test_the_schema_describes_and_marks_every_key():
    schema = json_schema()
    fields = [field for part in (schema, *schema["$defs"].values()) for field in part["properties"].values()]
    assert len(fields) > 60
    assert all(field["description"].endswith(("[identity]", "[rounding]", "[free]")) for field in fields)
    assert schema["required"] == ["name", "data", "model", "train"]
    json.dumps(schema)


def test_the_schema_knows_deepspeeds_keys():
    section = json_schema()["properties"]["deepspeed"]
    zero = section["properties"]["zero_optimization"]
    assert zero["properties"]["stage"] == {"enum": [0, 1, 2, 3]}
    assert zero["additionalProperties"] is False
    assert "round_robin_gradients" not in zero["properties"]


def test_the_schema_of_overlays_requires_nothing():
    assert "required" not in json.dumps(json_schema(overlay=True))
