"""`longhaul submit`, and `resume` of a run on a cluster: what can be checked here is checked, code and config are
uploaded, and a job that runs the same command there is begun. It is left alone once it has found all in order."""

import re
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from launch.paths import relative_keys, with_absolute_paths
from launch.remote.code import Shipment, stage
from launch.remote.dashboard import Dashboard, raise_failure
from launch.remote.there import There
from launch.screen import RUN_DIRECTORY, Screen
from launch.status import show_status
from orchestrator.config.load import load_config
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.control.connect import RUN_METADATA
from orchestrator.core.errors import BadInput
from orchestrator.core.words import ExitCode
from orchestrator.tracking.status import SeenState

_SHIPPED = "longhaul-job"  # folder of configs inside the job's own
_POLL_S = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """What a person wants to send along: the folder of their code, if any, and files that only look like secrets."""

    code: Path | None
    not_secret: Sequence[str] = ()


def submit(
    config_path: Path,
    overlays: Sequence[Path],
    sets: Sequence[str],
    screen: Screen,
    *,
    address: str,
    parcel: Parcel,
    or_resume: bool,
    follow: bool,
) -> ExitCode:
    if not address:
        raise BadInput("is missing", where="--address", remedy="the cluster's Ray dashboard, or set LONGHAUL_ADDRESS")
    config = load_config(config_path, overlays, [*sets, "cluster.address=auto"]).config
    path = _path_there(config)
    dashboard = Dashboard(address)
    with tempfile.TemporaryDirectory() as folder:
        shipment = stage(Path(folder), parcel.code, _own_paths(config), parcel.not_secret)
        file = _ship(shipment, "config.yaml", dump_yaml(config))
        again = ("--or-resume",) if or_resume else ()
        job_id = _start(dashboard, ("run", file, *again), shipment, path)
    return _see_off(dashboard, job_id, path, screen, follow=follow)


def resume_there(
    name: str,
    overlays: Sequence[Path],
    sets: Sequence[str],
    screen: Screen,
    *,
    address: str,
    parcel: Parcel,
    follow: bool,
) -> ExitCode:
    dashboard = Dashboard(address)
    status = There(dashboard, screen.say).status(name)
    path = PurePosixPath(status.path)
    if status.state is SeenState.DONE:
        why = f", {status.reason}" if status.reason else ""
        screen.say(f"{status.name} is done: {status.step} of {status.steps} steps{why}")
        return ExitCode.DONE
    with tempfile.TemporaryDirectory() as folder:
        shipment = stage(Path(folder), parcel.code, (), parcel.not_secret)
        files = [_ship(shipment, f"{i}-{overlay.name}", _read(overlay)) for i, overlay in enumerate(overlays)]
        changes = (*(f"--overlay={file}" for file in files), *sets, "cluster.address=auto")
        arguments = ("resume", str(path), *(changes if status.state.over else ()))
        job_id = _start(dashboard, arguments, shipment, path)
    return _see_off(dashboard, job_id, path, screen, follow=follow)


def _path_there(config: RunConfig) -> PurePosixPath:
    """The run directory on the cluster, where nobody knows what is relative to this machine's folders."""
    if config.cluster.shared is not None and Path(config.cluster.shared).is_absolute():
        config = with_absolute_paths(config)
    relative = list(relative_keys(config))
    if relative:
        raise BadInput(
            f"a cluster does not know where these paths start: {', '.join(relative)}",
            where="submit",
            remedy="set cluster.shared to a folder that all its nodes see, for example cluster.shared=/mnt/longhaul",
        )
    return PurePosixPath(config.root) / config.name


def _own_paths(config: RunConfig) -> list[Path]:
    """Data and runs of this config, should they lie in the folder of the code."""
    return [Path(config.root), Path(config.data.work), *(Path(source.path) for source in config.data.train)]


def _ship(shipment: Shipment, name: str, text: str) -> str:
    folder = shipment.work / _SHIPPED
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return f"{_SHIPPED}/{name}"


def _read(overlay: Path) -> str:
    try:
        return overlay.read_text()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(overlay)) from error


def _start(dashboard: Dashboard, arguments: Sequence[str], shipment: Shipment, path: PurePosixPath) -> str:
    job_id = f"longhaul-{re.sub('[^A-Za-z0-9-]', '-', path.name)}-{secrets.token_hex(3)}"
    return dashboard.start(arguments, shipment, {RUN_METADATA: str(path)}, job_id=job_id)


def _see_off(dashboard: Dashboard, job_id: str, path: PurePosixPath, screen: Screen, *, follow: bool) -> ExitCode:
    """Wait until the job has found everything in order, or say what it found."""
    with screen.console.status(f"job {job_id}: waiting for the cluster to take it"):
        info, said = _await_accepted(dashboard, job_id)
    if info.status.is_terminal():
        raise_failure(info, said, f"--address {dashboard.address}")
    there = There(dashboard, screen.say)
    screen.say(f"run {path.name} is in the hands of the cluster: job {job_id}, directory {path}")
    if follow:
        return show_status(there, str(path), watch=True, as_json=False, screen=screen)
    for command in ("status --watch", "logs --follow", "stop", "resume"):
        screen.say(f"  longhaul {command} {path.name}{there.again}")
    return ExitCode.DONE


def _await_accepted(dashboard: Dashboard, job_id: str) -> tuple[Any, list[str]]:
    while True:
        info, said = dashboard.info(job_id), dashboard.said(job_id)
        if info.status.is_terminal() or any(line.startswith(RUN_DIRECTORY) for line in said):
            return info, said
        time.sleep(_POLL_S)
