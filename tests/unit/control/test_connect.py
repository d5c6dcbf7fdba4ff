"""Addresses that cannot be a cluster's are refused at once, with what to do instead."""

import socket

import pytest

from orchestrator.control.connect import connected
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
