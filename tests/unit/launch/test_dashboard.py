"""A dashboard that cannot be used is refused with the reason; what died there is told as it would have been here."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from launch.remote.dashboard import ConnectionLost, Dashboard, raise_failure
from orchestrator.core.errors import ClusterError, LonghaulError


@contextmanager
def answering(code: int, body: dict[str, Any]) -> Iterator[str]:
    """A server that says the same to everything; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refusal(address: str) -> str:
    with pytest.raises(ClusterError) as raised:
        Dashboard(address)
    assert raised.value.exit_code == 2
    return str(raised.value)


def test_an_address_without_a_scheme_is_taken() -> None:
    with answering(200, {"ray_version": "2.60.1"}) as address:
        assert Dashboard(address).address == f"http://{address}"


def test_another_ray_is_refused_with_both_versions() -> None:
    with answering(200, {"ray_version": "2.9.0"}) as address:
        text = refusal(address)
    assert "Ray 2.9.0" in text
    assert ">=2.60" in text


def test_a_missing_token_is_told_with_the_variables_that_hold_it() -> None:
    with answering(401, {"msg": "Unauthorized"}) as address:
        assert "RAY_AUTH_TOKEN" in refusal(address)


def test_nobody_and_somebody_else_at_the_address_are_told_apart_from_a_cluster() -> None:
    with answering(404, {}) as address:
        assert "is it the address of the Ray dashboard" in refusal(address)
    assert "cannot be reached" in refusal(address)  # the server is gone
    with pytest.raises(ConnectionLost):
        Dashboard(address)


def ended(code: int | None, message: str = "") -> Any:
    return SimpleNamespace(driver_exit_code=code, message=message)


def test_what_a_command_has_complained_of_there_is_raised_here_with_its_exit_code() -> None:
    raise_failure(ended(0), ["longhaul: all is well"], "there")
    said = ["run directory: /mnt/a", "longhaul: root=/mnt: cannot be written to", "  -> choose another root"]
    with pytest.raises(LonghaulError) as raised:
        raise_failure(ended(2), said, "there")
    assert str(raised.value) == "there: root=/mnt: cannot be written to\n  -> choose another root"
    assert raised.value.exit_code == 2


def test_a_job_that_could_not_even_start_tells_what_ray_says_of_it() -> None:
    with pytest.raises(LonghaulError, match="runtime env setup failed") as raised:
        raise_failure(ended(None, "runtime env setup failed"), [], "there")
    assert raised.value.exit_code == 1
