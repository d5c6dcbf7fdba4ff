"""Addresses that cannot be a cluster's are refused at once, with what to do instead."""

import socket
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from orchestrator.control import connect
from orchestrator.control.connect import NodeFacts, connected, probe_root
from orchestrator.core.errors import ClusterError


def refusal(address: str) -> str:
    with pytest.raises(ClusterError) as raised, connected(address):
        raise AssertionError("it is no cluster")
    return str(raised.value)


def test_the_address_of_a_dashboard_is_told_to_be_one() -> None:
    assert "longhaul submit CONFIG --address http://head:8265" in refusal("http://head:8265")


def test_what_is_no_address_is_told_with_an_example() -> None:
    assert "10.0.0.1:6379" in refusal("head")


def test_nobody_there_is_told_with_key_and_value() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert refusal(address).startswith(f"cluster.address={address}: cannot be reached")


class OneNode:
    """A Ray whose only node answers a task with an error."""

    def __init__(self, error: RayError) -> None:
        self.error = error

    def remote(self, *_: Any) -> "OneNode":
        return self

    def options(self, **_: Any) -> "OneNode":
        return self

    def get(self, *_: Any, **__: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GetTimeoutError("Get timed out"), "node n1: cannot be used: Get timed out"),
        (
            RayTaskError("_answer_probe", "Traceback ...\nModuleNotFoundError: No module named 'orchestrator'", None),
            "node n1: cannot be used: ModuleNotFoundError: No module named 'orchestrator'",
        ),
    ],
    ids=["silent", "without Longhaul"],
)
def test_a_node_that_lives_and_cannot_answer_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RayError, told: str
) -> None:
    monkeypatch.setattr(connect, "ray", OneNode(error))
    monkeypatch.setattr(connect, "alive_nodes", lambda: [NodeFacts(node_id="a" * 56, host="n1", cpus=1, gpus=0)])
    with pytest.raises(ClusterError) as raised:
        probe_root(tmp_path)
    assert str(raised.value).startswith(told)
    assert not list(tmp_path.iterdir())
