"""A Ray node on a host: its command, its environment, and waiting until it is up."""

import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import IO

from orchestrator.core.errors import ClusterError

GCS_PORT, DASHBOARD_PORT = 6379, 8265
_OBJECT_STORE_BYTES = 100_000_000  # hosts share the machine's memory, and Longhaul puts next to nothing there
_TIMEOUT_S = 120.0
_POLL_S = 0.05


def ray_environment(token: str | None) -> dict[str, str]:
    """What Ray and everyone who speaks with it need to have; without a token one is invented."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token or secrets.token_hex(32),
        "RAY_DISABLE_USAGE_STATS": "1",
    }


def ray_command(address: str, head: str, cpus: int, dashboard: bool) -> list[str]:
    """The head is the node that has the head's address."""
    if address == head:
        role = ["--head", f"--port={GCS_PORT}", f"--include-dashboard={dashboard}", f"--dashboard-host={address}"]
    else:
        role = [f"--address={head}:{GCS_PORT}"]
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *role, f"--node-ip-address={address}",
        f"--num-cpus={cpus}", f"--object-store-memory={_OBJECT_STORE_BYTES}",
        "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0",
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class RayNode:
    host: str
    process: subprocess.Popen[str]
    log: IO[bytes]  # what Ray says while starting; a file without a name

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        with self.log:
            while "Ray runtime started" not in self._said():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise ClusterError(f"Ray did not start:\n{self._said()[-2000:]}", where=self.host)
                time.sleep(_POLL_S)

    def _said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")
