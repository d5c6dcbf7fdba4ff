"""A config for people and editors: YAML, provenance, differences, JSON Schema. Behind `longhaul config`."""

from typing import Any

import yaml

from orchestrator.config.compare import changed_keys
from orchestrator.config.deepspeed_keys import ALLOWED, OWNED, SWITCH, Takes
from orchestrator.config.load import Loaded
from orchestrator.config.problems import shown
from orchestrator.config.run import RunConfig
from orchestrator.config.tree import ConfigDumper, leaves


def dump_yaml(config: RunConfig) -> str:
    """Every key with its value; load_config reads it back as the same config."""
    return yaml.dump(
        config.model_dump(mode="json"), Dumper=ConfigDumper, sort_keys=False, allow_unicode=True, width=120
    )


def show_provenance(loaded: Loaded) -> str:
    """One line a key: its value and where that was written."""
    lines = [(f"{key}: {shown(value)}", key) for key, value in leaves(loaded.config.model_dump(mode="json"))]
    width = max(len(text) for text, _ in lines)
    return "\n".join(f"{text:<{width}}  # {loaded.provenance[key]}" for text, key in lines)


def show_diff(old: RunConfig, new: RunConfig) -> str:
    """One line a key that differs: `key [mark]: old -> new`."""
    return "\n".join(map(str, changed_keys(old, new)))


def json_schema(*, overlay: bool = False) -> dict[str, Any]:
    """JSON Schema for editors; descriptions end in the key's mark. In an overlay, being a part, nothing is required."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunConfig.model_json_schema()}
    schema["properties"]["deepspeed"] |= _deepspeed_schema()
    schema["title"] = "Longhaul overlay" if overlay else "Longhaul config"
    for section in (schema, *schema["$defs"].values()):
        if overlay:
            section.pop("required", None)
        for field in section.get("properties", {}).values():
            field.pop("title", None)
            field["description"] += f" [{field.pop('mark')}]"
    return schema


def _deepspeed_schema() -> dict[str, Any]:
    """DeepSpeed's keys that may be written, nested as they are written."""
    top: dict[str, Any] = {"properties": {}, "additionalProperties": False}
    kinds = {key: _value_schema(allowed.takes) | _description(allowed.note) for key, allowed in ALLOWED.items()}
    kinds |= {key: {"description": f"set by {owned.by}; leave it out, auto, or equal"} for key, owned in OWNED.items()}
    for key, kind in kinds.items():
        *sections, name = key.split(".")
        here = top
        for section in sections:
            empty = {"type": "object", "properties": {}, "additionalProperties": False}
            here = here["properties"].setdefault(section, empty)
        here["properties"][name] = kind
    return top


def _value_schema(takes: Takes) -> dict[str, Any]:
    if isinstance(takes, tuple):
        return {"enum": list(takes)}
    return {"type": "boolean"} if takes == SWITCH else {"type": "integer", "minimum": 0}


def _description(note: str) -> dict[str, str]:
    return {"description": note} if note else {}
