"""The batch script under a real Slurm: one slurmd a host, of Debian's packages slurmctld, slurmd and slurm-client."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.hosts import Cluster, Host, refuse_what_cannot_work
from orchestrator.core.errors import BadInput
from tests.integration.conftest import Bench
from tests.integration.test_faults import wait_until
from tests.integration.test_resume import wait_for_step

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm" / "longhaul.sbatch"
MISSING = [tool for tool in ("slurmctld", "slurmd", "sbatch", "srun", "scancel") if shutil.which(tool) is None]
LONG = ("train.steps=160", "evaluate.every_steps=80")  # some seconds on these hosts: time to be disturbed in

# No munge and no cgroups. As with cgroups, scancel reaches a task's first process and not its sessions: proctrack/pgid.
# cred_expire is also how long a requeued job waits.
CONFIG = """
ClusterName=drill
SlurmctldHost={head}
SlurmUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
SlurmdTimeout=5
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    cluster: Cluster
    bench: Bench
    env: dict[str, str]

    def call(self, *command: str) -> str:
        """A command on the first host."""
        done = self.cluster.hosts[0].run(command, env=self.env, cwd=self.bench.folder, timeout_s=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, nodes: int, *arguments: str) -> str:
        """The id of a new job: the script with these arguments."""
        return self.call("sbatch", "--parsable", f"--nodes={nodes}", str(SCRIPT), *arguments).strip()

    def shows(self, job: str, text: str) -> bool:
        """Whether `scontrol show job` has this word, for example JobState=RUNNING."""
        return text in self.call("scontrol", "--oneliner", "show", "job", job).split()

    def await_shown(self, job: str, text: str) -> None:
        try:
            wait_until(lambda: self.shows(job, text), timeout_s=240)
        except AssertionError as error:
            raise AssertionError(f"{self.call('scontrol', 'show', 'job', job)}\n{self.log(job)}") from error

    def log(self, job: str) -> str:
        return "".join(path.read_text() for path in sorted(self.bench.folder.glob(f"longhaul-{job}*.log")))

    def leftovers(self, host: Host) -> str:
        """What a job has left on a host: processes of Ray and Longhaul, and its folder."""
        return host.run(["sh", "-c", "ls -d /tmp/lh-*; pgrep -af '[r]aylet|[g]cs_server|[l]onghaul run'"]).stdout


@pytest.fixture(scope="module")
def slurm(bench: Bench) -> Iterator[Slurm]:
    if MISSING:
        pytest.skip(f"no {', '.join(MISSING)}: apt install slurmctld slurmd slurm-client")
    try:
        refuse_what_cannot_work(hosts=3)
    except BadInput as problem:
        pytest.skip(problem.message)
    folder = bench.folder / "slurm"
    folder.mkdir()
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster.start(hosts=3, shared=bench.folder))
        nodes = "\n".join(f"NodeName={host.name} NodeAddr={host.address} CPUs=2" for host in cluster.hosts)
        head = f"h1({cluster.hosts[0].address})"
        (folder / "slurm.conf").write_text(CONFIG.format(head=head, folder=folder, nodes=nodes))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        slurm = Slurm(cluster, bench, {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": path, "NETRC": "/nonexistent"})
        start_daemon(stack, slurm, cluster.hosts[0], ["slurmctld", "-D", "-i"])
        for host in cluster.hosts:
            start_daemon(stack, slurm, host, ["slurmd", "-D", "-N", host.name])
        wait_until(lambda: is_ready(slurm))
        yield slurm


def start_daemon(stack: ExitStack, slurm: Slurm, host: Host, command: Sequence[str]) -> None:
    log = stack.enter_context((slurm.bench.folder / "slurm" / f"{command[0]}-{host.name}.log").open("w"))
    host.start(command, env=slurm.env, stdout=log, stderr=log)


def is_ready(slurm: Slurm) -> bool:
    seen = slurm.cluster.hosts[0].run(["sinfo", "-h", "-o", "%D %t"], env=slurm.env, timeout_s=60)
    return seen.stdout.strip() == "3 idle"


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> str:
    done = bench.run("undisturbed", *LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    return "undisturbed"


def nodes_of(started: dict[str, Any]) -> set[str]:
    return {rank["node"] for rank in started["ranks"]}


def addresses(slurm: Slurm, *names: str) -> set[str]:
    return {slurm.cluster.host(name).address for name in names}


def assert_like(slurm: Slurm, run: str, undisturbed: str) -> None:
    """The same samples in every step, and the same losses: it is the same world of two ranks, wherever they are."""
    assert slurm.bench.ledger(run) == slurm.bench.ledger(undisturbed)
    assert slurm.bench.losses(run) == slurm.bench.losses(undisturbed)
    assert slurm.bench.longhaul("verify", run).returncode == 0


def test_a_job_that_gets_notice_is_requeued_and_goes_on_by_itself(slurm: Slurm, undisturbed: str) -> None:
    job = slurm.submit(2, "small.yaml", "name=noticed", "cluster.ranks_per_node=1", *LONG)
    wait_for_step(slurm.bench, "noticed", 8)
    slurm.call("scancel", "--batch", "--signal=USR1", job)  # what Slurm itself does before the time limit
    slurm.await_shown(job, "Restarts=1")
    slurm.await_shown(job, "JobState=COMPLETED")
    [notice] = slurm.bench.events("noticed", "stopped")
    assert notice["exit_code"] == 75
    first, second = slurm.bench.events("noticed", "started")
    assert second["checkpoint"] == f"step-{notice['step']:08}-g0001"
    assert nodes_of(first) == addresses(slurm, "h1", "h2")
    assert_like(slurm, "noticed", undisturbed)
    assert [slurm.leftovers(host) for host in slurm.cluster.hosts] == ["", "", ""]


def test_scancel_stops_after_a_checkpoint_and_the_command_goes_on_elsewhere(slurm: Slurm, undisturbed: str) -> None:
    job = slurm.submit(2, "small.yaml", "name=cancelled", "cluster.ranks_per_node=1", *LONG)
    wait_for_step(slurm.bench, "cancelled", 8)
    slurm.call("scancel", job)
    slurm.await_shown(job, "JobState=CANCELLED")
    wait_until(lambda: slurm.bench.events("cancelled", "stopped"))
    assert "\nstopping at once" not in slurm.log(job), "the run has heard the signal twice"
    [stop] = slurm.bench.events("cancelled", "stopped")
    assert (stop["exit_code"], stop["step"] >= 8) == (130, True)
    again = slurm.submit(1, "small.yaml", "name=cancelled", "cluster.ranks_per_node=2", *LONG)
    slurm.await_shown(again, "JobState=COMPLETED")
    assert slurm.bench.events("cancelled", "started")[1]["checkpoint"] == f"step-{stop['step']:08}-g0001"
    assert_like(slurm, "cancelled", undisturbed)


@pytest.mark.long
def test_a_job_that_loses_a_node_is_requeued_on_others(slurm: Slurm, undisturbed: str) -> None:
    job = slurm.submit(2, "small.yaml", "name=bereft", "cluster.ranks_per_node=1", *LONG)
    wait_for_step(slurm.bench, "bereft", 8)
    slurm.cluster.host("h2").kill()
    slurm.await_shown(job, "Restarts=1")
    slurm.await_shown(job, "JobState=COMPLETED")
    assert nodes_of(slurm.bench.events("bereft", "started")[-1]) == addresses(slurm, "h1", "h3")
    assert_like(slurm, "bereft", undisturbed)


@pytest.mark.long
def test_a_ray_that_dies_on_a_living_node_comes_back_and_so_does_the_run(slurm: Slurm, undisturbed: str) -> None:
    job = slurm.submit(2, "small.yaml", "name=headstrong", "cluster.ranks_per_node=1", *LONG)
    wait_for_step(slurm.bench, "headstrong", 8)
    [started] = slurm.bench.events("headstrong", "started")
    other = next(host for host in slurm.cluster.hosts[1:] if host.address in nodes_of(started))
    assert other.run(["pkill", "-KILL", "raylet"]).returncode == 0
    slurm.await_shown(job, "JobState=COMPLETED")
    assert slurm.shows(job, "Restarts=0")
    assert other.address in nodes_of(slurm.bench.events("headstrong", "started")[-1])
    assert_like(slurm, "headstrong", undisturbed)


def test_the_exit_code_is_the_jobs(slurm: Slurm) -> None:
    job = slurm.submit(1, "small.yaml", "name=wrong", "train.stepz=3")
    slurm.await_shown(job, "ExitCode=2:0")
    assert slurm.shows(job, "JobState=FAILED")
    assert "train.stepz: unknown key" in slurm.log(job)
    assert slurm.leftovers(slurm.cluster.hosts[0]) == ""


def test_the_script_is_clean() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck: apt install shellcheck")
    checked = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
