"""Shards of table rows, and configs that learn from them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.run import RunConfig
from tests.fakes.shards import write_tar

TABLE = {
    "columns": ["age", "size", {"name": "colour", "values": ["red", "green"]}],
    "target": "kind",
    "labels": ["cat", "dog"],
}


def make_row(number: int) -> dict[str, Any]:
    colour, kind = ("red", "cat") if number % 3 else ("green", "dog")
    return {"age": number, "size": number / 2, "colour": colour, "kind": kind}


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """A shard of JSON objects; their keys are r000, r001, ..."""
    return write_tar(path, [(f"r{n:03d}.json", json.dumps(row).encode()) for n, row in enumerate(rows)])


def table_config(root: Path, table: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    """A config whose rows lie in root/data; `table` is laid over TABLE, `sections` over whole sections."""
    regression = sections.get("task", {}).get("name") == "tabular_regression"
    made: dict[str, Any] = TABLE | ({"target": "kind", "labels": None} if regression else {}) | (table or {})
    value: dict[str, Any] = {
        "name": "table",
        "data": {"train": [{"path": str(root / "data")}], "work": str(root / "work"), "run_samples": 1, "table": made},
        "task": {"name": "tabular_classification", "classes": 2},
        "model": {"linear": {}},
        "train": {"steps": 2, "global_batch": 4, "precision": "fp32"},
    }
    for name, section in sections.items():
        value[name] = value.get(name, {}) | section
    return RunConfig.model_validate(value)
