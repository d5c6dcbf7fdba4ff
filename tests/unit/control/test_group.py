"""Nodes against what a run asks of a node."""

from typing import Any

import pytest

from orchestrator.control import group


def node(name: str, alive: bool = True, **total: float) -> dict[str, Any]:
    return {"NodeID": f"id-{name}", "NodeManagerHostname": name, "Alive": alive, "Resources": total}


def test_every_living_node_is_told_with_why_it_does_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("free", CPU=4, GPU=8), node("small", CPU=1), node("busy", CPU=4, GPU=8), node("held", CPU=4, GPU=8)]
    free = {"id-free": {"CPU": 4, "GPU": 8}, "id-small": {"CPU": 1}, "id-busy": {"CPU": 4, "GPU": 5}, "id-held": {}}
    monkeypatch.setattr(group, "available_resources_per_node", lambda: free)
    dead = node("dead", alive=False, CPU=4, GPU=8)
    found = group.offers({"CPU": 4.0, "GPU": 8.0}, [*nodes, dead], held={"id-held"})
    assert {offer.host: offer.why_not for offer in found} == {
        "free": "",
        "small": "too small: 1 CPU, 0 GPU",
        "busy": "5 of 8 GPU free",
        "held": "held by this run",
    }
    assert found[2].free == {"CPU": 4, "GPU": 5}
    assert found[1].total == {"CPU": 1, "GPU": 0.0}
