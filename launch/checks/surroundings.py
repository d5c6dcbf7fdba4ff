"""What the environment says to Ray and to requests, and whether W&B can be reached."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed does not know it

from launch.checks.check import Check

REACH_TIMEOUT_S = 3.0
_PROXY_REFUSES = 407


def check_ray(version: str, environ: Mapping[str, str], proxies: Mapping[str, str]) -> Check:
    """What is set for other purposes and changes what Longhaul's commands do, is told."""
    found, remedies = [version], []
    address = environ.get("RAY_ADDRESS")
    if address and "RAY_JOB_ID" not in environ:  # Ray sets both for its own jobs and workers
        found.append(f"RAY_ADDRESS={address} is what `auto` means")
        remedies.append("unset RAY_ADDRESS unless you mean that cluster")
    if "http" in proxies and not proxy_bypass_environment("localhost", dict(proxies)):
        found.append("http_proxy also takes what is meant for this machine, such as a forwarded Ray dashboard")
        remedies.append("add localhost,127.0.0.1 and your cluster's addresses to no_proxy")
    return Check("warning" if remedies else "ok", "Ray", "; ".join(found), "; ".join(remedies))


def check_tracking(why_not_reached: str, *, has_key: bool) -> Check:
    if not has_key:
        detail = "no API key: runs are kept offline (`wandb login` or WANDB_API_KEY to go online)"
        return Check("ok", "W&B", detail)
    if why_not_reached:
        remedy = "runs go on without it and keep every row; open the way, or set tracking.wandb.mode=offline"
        return Check("warning", "W&B", why_not_reached, remedy)
    return Check("ok", "W&B", "an API key is there and the server answers: runs go online")


def proxies() -> Mapping[str, str]:
    return urllib.request.getproxies_environment()


def why_not_reached() -> str:
    """Of the W&B server that a run here would use."""
    from orchestrator.tracking.wandb import default_host  # half a second, only needed with a key

    return try_url(default_host())


def try_url(url: str) -> str:
    """Empty when a server answers, whatever it says to a question without a key."""
    try:
        urllib.request.urlopen(url, timeout=REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        error.close()
        return f"{url} answers {error.code} {error.reason}" if error.code in (_PROXY_REFUSES, 502, 503, 504) else ""
    except (urllib.error.URLError, OSError) as error:
        return f"{url} cannot be reached: {getattr(error, 'reason', error)}"
    return ""
