"""Hosts made of this machine: apart from each other, connected, breakable, and gone with whoever made them."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.hosts import Cluster, Host, refuse_what_cannot_work
from cluster.hosts.namespaces import NET, spawn_apart
from orchestrator.core.errors import BadInput, LonghaulError
from tests.integration.test_faults import wait_until

pytestmark = pytest.mark.cluster

CLONE = Path(__file__).parents[2]
SERVE = """
import contextlib, socket
server = socket.create_server(("", 7000))
while True:
    line, _ = server.accept()
    with line, contextlib.suppress(OSError):
        wish = line.recv(5)
        if wish == b"hello":
            line.sendall(wish)
        elif wish == b"send!":
            line.sendall(bytes(1_000_000))
        while line.recv(65536):
            pass
        line.sendall(b"end")
"""
CALL = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=2.0) as line:
    line.sendall(b"hello")
    print(line.recv(5).decode())
"""
LISTEN_ON = """
import socket, sys
line = socket.create_connection((sys.argv[1], 7000))
print("connected", flush=True)
line.settimeout(1.0)
sys.stdin.readline()
try:
    print("goodbye" if line.recv(5) == b"" else "word")
except TimeoutError:
    print("silence")
"""
TRANSFER = """
import socket, sys, time
began, wish = time.monotonic(), sys.argv[2]
with socket.create_connection((sys.argv[1], 7000)) as line:
    line.sendall(wish.encode())
    if wish == "take!":
        line.sendall(bytes(1_000_000))
    line.shutdown(socket.SHUT_WR)
    while line.recv(65536):
        pass
print(time.monotonic() - began)
"""

QUICK_TO_NOTICE = {"RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": "2"}


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    try:
        refuse_what_cannot_work()
    except BadInput as reason:
        pytest.skip(str(reason))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.start(hosts=3, shared=tmp_path / "shared") as cluster:
        yield cluster


def serve(host: Host) -> subprocess.Popen[str]:
    process = host.start([sys.executable, "-c", SERVE])
    wait_until(lambda: hears(host, "127.0.0.1"))
    return process


def hears(host: Host, name: str) -> bool:
    """Whether this host has an answer from that one's server."""
    return host.run([sys.executable, "-c", CALL, name]).stdout == "hello\n"


def says(host: Host, command: str) -> str:
    done = host.run(["sh", "-c", command])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def is_running(word: str) -> bool:
    return any(word in arguments for arguments in list_commands())


def list_commands() -> Iterator[list[str]]:
    for process in psutil.process_iter():
        try:
            yield process.cmdline()
        except psutil.Error:
            continue


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_hosts_have_names_and_reach_each_other_by_them(cluster: Cluster) -> None:
    first, second, third = cluster.hosts
    assert [says(host, "hostname") for host in cluster.hosts] == ["h1", "h2", "h3"]
    serve(second)
    assert hears(first, "h2")
    assert hears(third, second.address)
    assert not hears(second, "h1")  # which serves nothing


def test_a_person_outside_reaches_the_hosts(cluster: Cluster) -> None:
    serve(cluster.hosts[1])
    done = subprocess.run([sys.executable, "-c", CALL, cluster.hosts[1].address], capture_output=True, text=True)
    assert done.stdout == "hello\n"


def test_each_host_has_its_own_memory_files_and_processes(cluster: Cluster) -> None:
    first, second, _ = cluster.hosts
    name = secrets.token_hex(8)
    says(first, f"touch /tmp/{name} /dev/shm/{name}")
    first.start(["sh", "-c", "sleep 1000; true", name])
    assert name in says(first, "ls /tmp /dev/shm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert name not in says(second, "ls /tmp /dev/shm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert not Path("/tmp", name).exists()
    assert not Path("/dev/shm", name).exists()


def test_the_shared_folder_is_one_for_all_at_its_usual_path(tmp_path: Path) -> None:
    data = tmp_path / "data"  # pytest's folders lie below /tmp, of which each host has its own
    data.mkdir()
    (data / "shard").write_text("text")
    shared = tmp_path / "shared"
    with Cluster.start(hosts=2, shared=shared, visible=[data]) as cluster:
        first, second = cluster.hosts
        says(first, f"echo written > {shared}/file")
        assert says(second, f"pwd; cat {shared}/file {data}/shard") == f"{shared}\nwritten\ntext"
    assert (shared / "file").read_text() == "written\n"


def test_commands_get_environment_folder_and_an_end(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    done = host.run(["sh", "-c", 'echo "$WORD" in $PWD; echo no >&2; exit 3'], env={"WORD": "yes"}, cwd=CLONE)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"yes in {CLONE}\n", "no\n")
    word = secrets.token_hex(8)
    with pytest.raises(subprocess.TimeoutExpired):
        host.run(["sh", "-c", f"sh -c 'sleep 1000; true' {word}; true"], timeout_s=0.5)
    wait_until(lambda: not is_running(word))
    with pytest.raises(BadInput, match="nonsense"):
        host.run(["nonsense"])


def test_killing_a_host_takes_all_of_it_and_nothing_else(cluster: Cluster) -> None:
    first, second, third = cluster.hosts
    doomed, other = secrets.token_hex(8), secrets.token_hex(8)
    process = second.start(["sh", "-c", "setsid sh -c 'sleep 1000; true' $0 & sleep 1000", doomed])
    stays = third.start(["sh", "-c", "sleep 1000; true", other])
    wait_until(lambda: is_running(doomed))
    second.kill()
    assert not is_running(doomed)
    assert process.wait(5) == -signal.SIGKILL
    assert second.state() == "off"
    assert stays.poll() is None
    assert says(first, "getent hosts h3")
    with pytest.raises(LonghaulError, match="h2 is off"):
        second.run(["true"])


def test_a_killed_host_says_no_goodbye(cluster: Cluster) -> None:
    first, second, third = cluster.hosts
    server, ends = serve(second), serve(third)
    ears = [
        first.start([sys.executable, "-c", LISTEN_ON, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("h2", "h3")
    ]
    assert [ear.stdout.readline() for ear in ears if ear.stdout] == ["connected\n"] * 2
    second.kill()
    ends.kill()
    assert [ear.communicate("now\n")[0] for ear in ears] == ["silence\n", "goodbye\n"]
    assert server.wait() == -signal.SIGKILL


def test_a_host_boots_empty_in_its_place(cluster: Cluster) -> None:
    first, second, _ = cluster.hosts
    says(second, "touch /tmp/old /dev/shm/old")
    serve(second)
    assert hears(first, "h2")
    second.limit_rate("1mbit")
    with pytest.raises(LonghaulError, match="h2 is up"):
        second.boot()
    second.kill()
    second.boot()
    assert second.state() == "up"
    assert says(second, "hostname; ls /tmp/old /dev/shm/old 2>/dev/null || true") == "h2"
    assert not hears(first, "h2")
    serve(second)
    assert hears(first, "h2")


def test_a_cut_link_is_silent_both_ways_until_mended(cluster: Cluster) -> None:
    first, second, third = cluster.hosts
    for host in (first, second):
        serve(host)
    assert hears(third, "h2")
    second.cut()
    assert second.state() == "up, cut off"
    assert not hears(first, "h2")
    assert not hears(second, "h1")
    assert hears(second, "h2")
    assert hears(third, "h1")
    second.mend()
    assert second.state() == "up"
    wait_until(lambda: hears(first, "h2"))
    assert hears(second, "h1")


@pytest.mark.parametrize("wish", ["take!", "send!"])
def test_a_limited_link_is_slow_in_this_direction(cluster: Cluster, wish: str) -> None:
    first, second, third = cluster.hosts
    serve(second)

    def transfer(host: Host) -> float:
        """Seconds for a megabyte."""
        return float(says(host, f"{sys.executable} -c '{TRANSFER}' h2 {wish}"))

    fast = transfer(first)
    first.limit_rate("8mbit")
    assert first.state() == "up, limited to 8mbit"
    slow = transfer(first)
    assert slow > max(0.7, 2 * fast)  # one second, but for what the bucket holds
    assert transfer(third) < slow
    first.limit_rate("4mbit")
    assert transfer(first) > 1.5
    first.limit_rate(None)
    assert first.state() == "up"
    assert transfer(first) < slow


def test_a_rate_that_is_none_is_refused(cluster: Cluster) -> None:
    cluster.hosts[0].limit_rate(None)
    with pytest.raises(LonghaulError, match="rate"):
        cluster.hosts[0].limit_rate("fast")
    assert cluster.hosts[0].state() == "up"


def test_a_frozen_host_keeps_its_connections_and_does_not_answer(cluster: Cluster) -> None:
    first, second, _ = cluster.hosts
    server = serve(second)
    second.freeze()
    assert not hears(first, "h2")
    assert server.poll() is None
    second.thaw()
    wait_until(lambda: hears(first, "h2"))


def test_nothing_is_left_after_the_end(tmp_path: Path) -> None:
    mounts, word = Path("/proc/mounts").read_text(), secrets.token_hex(8)
    with Cluster.start(hosts=2, shared=tmp_path) as cluster:
        assert cluster.name in interfaces()
        process = cluster.hosts[0].start(["sh", "-c", "sleep 1000; true", word])
        assert Path("/proc/mounts").read_text() == mounts
    assert not is_running(word)
    assert cluster.name not in interfaces()
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(BadInput, match="no such cluster"):
        cluster.hosts[0].run(["true"])


def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path) -> None:
    word = secrets.token_hex(8)
    code = f"""
import sys
from pathlib import Path
from cluster.hosts import Cluster
with Cluster.start(hosts=2, shared=Path({str(tmp_path)!r})) as cluster:
    for host in cluster.hosts:
        host.start(["sh", "-c", "setsid sleep 1000 & sleep 1000", {word!r}])
    print(cluster.name, flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CLONE) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) >= 5  # the keeper, two hosts and what runs in them
        assert name in interfaces()
        owner.kill()
    wait_until(lambda: not any(lives(process) for process in family) and not is_running(word), timeout_s=10)
    wait_until(lambda: name not in interfaces(), timeout_s=10)


def test_two_clusters_stand_side_by_side_unknown_to_each_other(cluster: Cluster, tmp_path: Path) -> None:
    with Cluster.start(hosts=2, shared=tmp_path / "other") as other:
        serve(cluster.hosts[1])
        assert other.name != cluster.name
        assert hears(cluster.hosts[0], "h2")
        assert not hears(other.hosts[0], "h2")
        assert not hears(other.hosts[0], cluster.hosts[1].address)
        assert Cluster.find(cluster.name).hosts == cluster.hosts
    assert hears(cluster.hosts[0], "h2")


def test_a_command_keeps_hosts_and_others_use_and_break_them(tmp_path: Path) -> None:
    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "cluster.hosts", *words]

    def do(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*words), cwd=CLONE, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True
        )
        assert "Traceback" not in done.stderr
        return done

    start = command("up", "2", "--shared", str(tmp_path), "--no-ray")
    with subprocess.Popen(start, cwd=CLONE, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        which = f"--cluster={up.stdout.readline().split()[1].rstrip(',')}"
        while "thaw" not in up.stdout.readline():
            assert up.poll() is None
        done = do("exec", which, "h2", "--", "sh", "-c", "hostname; exit 3")
        assert (done.returncode, done.stdout) == (3, "h2\n")
        assert do("cut", which, "h1").returncode == 0
        assert do("kill", which, "h2").returncode == 0
        shown = [line.split() for line in do("status", which).stdout.splitlines()]
        assert [words[2:] for words in shown if words[:1] in (["h1"], ["h2"])] == [["up,", "cut", "off"], ["off"]]
        assert do("mend", which, "h1").returncode == 0
        assert do("boot", which, "h2").returncode == 0
        wrong = do("kill", which, "h9")
        assert wrong.returncode == 2
        assert "h1, h2" in wrong.stderr
        up.send_signal(signal.SIGINT)
        rest = up.stdout.read()
    assert up.returncode == 0
    assert "All hosts are gone." in rest
    assert do("status", which).returncode == 2


def test_ray_on_the_hosts_sees_a_host_go_and_another_come(tmp_path: Path) -> None:
    def nodes_alive() -> int:
        code = "import ray, sys; ray.init(sys.argv[1]); print('alive', sum(n['Alive'] for n in ray.nodes()))"
        done = cluster.hosts[0].run([sys.executable, "-c", code, cluster.ray_address], timeout_s=60)
        counted = re.search(r"^alive (\d+)$", done.stdout, re.MULTILINE)  # Ray's own words may stand around it
        return int(counted[1]) if counted else 0

    with Cluster.start(hosts=3, shared=tmp_path) as cluster:
        with pytest.raises(BadInput, match="no Ray yet"):
            cluster.hosts[0].start_ray()
        cluster.start_ray(cpus=1, env=QUICK_TO_NOTICE)
        assert nodes_alive() == 3
        token = {"Authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{cluster.dashboard}/api/version", headers=token)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["ray_version"]
        cluster.hosts[2].kill()
        wait_until(lambda: nodes_alive() == 2, timeout_s=120)
        cluster.hosts[2].boot()
        cluster.hosts[2].start_ray(cpus=1)
        wait_until(lambda: nodes_alive() == 3)


def test_what_cannot_work_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(hosts: int = 1, shared: Path = tmp_path, visible: tuple[Path, ...] = ()) -> str:
        with pytest.raises(BadInput) as refused, Cluster.start(hosts, shared=shared, visible=visible):
            pass
        return str(refused.value)

    assert "1 to 200" in start(hosts=0)
    assert "1 to 200" in start(hosts=201)
    assert "of its own" in start(shared=Path("/tmp"))
    assert "no such folder" in start(visible=(tmp_path / "nothing",))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "iproute2" in start()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sudo" in start()


def test_a_network_in_use_is_left_alone() -> None:
    code = """
import subprocess
from cluster.hosts.network import claim_network
for taken in ("10.64.0.0/16", "10.65.0.7/32"):
    subprocess.run(["ip", "route", "add", "blackhole", taken], check=True)
first, line = claim_network()
print(first.subnet, claim_network()[0].subnet)
"""
    with spawn_apart(NET, [sys.executable, "-W", "ignore", "-c", code], cwd=CLONE, stdout=subprocess.PIPE) as process:
        assert process.communicate()[0] == "10.65.1.0/24 10.65.2.0/24\n"
