import os
import shutil
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from launch.checks import folders
from launch.checks.check import GIB
from launch.checks.compiler import check_compiler, try_compiler
from launch.checks.folders import Folder, check_root, check_scratch, look_at_folder
from launch.checks.limits import Limits, read_limits
from launch.checks.machine import (
    check_descriptors,
    check_memory,
    check_processes,
    check_processors,
    check_shared_memory,
    check_system,
)
from launch.checks.packages import check_packages, check_python, read_versions
from launch.checks.surroundings import check_ray, check_tracking, try_url

VERSIONS = {"torch": "2.13.0+cpu", "deepspeed": "0.19.8", "ray": "2.60.0"}
PROXY = {"http": "http://proxy:3128"}


def folder(**fields) -> Folder:
    path = Path("/mnt/runs")
    sound = {
        "path": path, "existing": path, "why_not_writable": "", "why_not_published": "", "total_bytes": 1000 * GIB,
        "free_bytes": 500 * GIB, "free_files": None,
    }  # fmt: skip
    return Folder(**{**sound, **fields})


def requires(**packages):
    return lambda name: packages.get(name)


# ---- packages, Python, compiler ----


def test_packages_in_their_ranges_are_named_with_their_versions():
    check = check_packages(requires(longhaul=["deepspeed>=0.19.8,<0.20", "torch>=2.11,<2.14"]), VERSIONS)
    assert (check.level, check.detail) == ("ok", "torch 2.13.0+cpu, deepspeed 0.19.8, ray 2.60.0")


def test_each_package_that_is_missing_or_out_of_range_is_named():
    wanted = requires(longhaul=["deepspeed>=0.19.8,<0.20", "wandb>=0.31", "pytest>=9; extra == 'test'"])
    check = check_packages(wanted, VERSIONS | {"deepspeed": "0.20.1"})
    assert check.level == "problem"
    assert check.detail == "deepspeed 0.20.1 is not <0.20,>=0.19.8; wandb is missing"


def test_what_an_extra_brings_is_asked_for_and_other_extras_are_not():
    of_ray = ["click", "aiohttp>=3; extra == 'default'", "pandas; extra == 'data'"]
    check = check_packages(requires(longhaul=["ray[default]>=2.60"], ray=of_ray), VERSIONS)
    assert (check.level, check.detail) == ("problem", "aiohttp is missing")


def test_the_code_of_longhaul_is_part_of_its_version():
    assert "(code " in read_versions()["longhaul"]


def test_old_python_and_other_systems_are_problems():
    assert check_python("3.10.4", ">=3.11").level == "problem"
    assert check_python("3.12.1", ">=3.11").level == "ok"
    assert check_system("Darwin", "25.0", "").level == "problem"
    assert check_system("Linux", "4.19", "Function not implemented").level == "problem"
    assert check_system("Linux", "6.1", "").level == "ok"


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_a_compiler_that_is_there_but_does_not_compile_is_found(tmp_path, monkeypatch):
    assert check_compiler(*try_compiler()).level == "ok"
    broken = tmp_path / "broken-c++"
    broken.write_text(
        "#!/bin/sh\necho 'probe.cpp:1:10: fatal error: Python.h: No such file or directory' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    check = check_compiler(*try_compiler())
    assert check.level == "warning"
    assert "fatal error: Python.h: No such file or directory" in check.detail


def test_a_missing_compiler_is_a_warning_only():
    check = check_compiler(None, "/usr/bin/ninja", "")
    assert (check.level, check.detail) == ("warning", "no C++ compiler")


# ---- limits of a container ----


def write_groups(mount: Path, **files: str) -> None:
    for name, text in files.items():
        path = mount / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_the_tightest_limit_above_a_process_holds(tmp_path):
    groups, mount = tmp_path / "cgroup", tmp_path / "fs"
    groups.write_text("0::/slurm/job7/step0\n")
    write_groups(
        mount, slurm__memory_DOT_max="17179869184", slurm__job7__memory_DOT_max="8589934592",
        slurm__job7__step0__memory_DOT_max="max",
        slurm__job7__step0__cpu_DOT_max="250000 100000", slurm__cpu_DOT_max="max 100000", slurm__pids_DOT_max="700",
    )  # fmt: skip
    assert read_limits(groups, mount) == Limits(memory_bytes=8 * GIB, cpus=2.5, processes=700)


def test_limits_of_the_first_version_are_read_also_where_the_path_is_that_of_the_host(tmp_path):
    groups, mount = tmp_path / "cgroup", tmp_path / "fs"
    groups.write_text(
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:pids:/docker/abc\n1:name=systemd:/docker/abc\n"
    )
    write_groups(mount, memory__memory_DOT_limit_in_bytes="4294967296", cpu__cpu_DOT_cfs_quota_us="-1")
    write_groups(mount, cpu__cpu_DOT_cfs_period_us="100000", pids__pids_DOT_max="max")
    assert read_limits(groups, mount) == Limits(memory_bytes=4 * GIB, cpus=None, processes=None)
    write_groups(mount, cpu__cpu_DOT_cfs_quota_us="200000")
    assert read_limits(groups, mount).cpus == 2.0


def test_a_container_with_fewer_cpus_than_its_host_wants_cpus_per_rank():
    assert check_processors(64, 64).level == "ok"
    assert check_processors(64, float("inf")).level == "ok"
    check = check_processors(64, 2.5)
    assert (check.level, check.detail) == ("warning", "only 2.5 of 64 CPUs may be used here (container or job)")
    assert "cluster.cpus_per_rank: at most 2" in check.remedy


def test_the_memory_of_a_container_counts_not_that_of_its_host():
    assert check_memory(512 * GIB, 16 * GIB).detail == "16.0 GiB of 512.0 GiB (container or job)"
    assert check_memory(512 * GIB, 2**63 - 4096).detail == "512.0 GiB"  # how version 1 writes "no limit"
    assert check_memory(512 * GIB, GIB).level == "warning"


def test_low_limits_of_open_files_and_processes_are_warnings():
    assert check_descriptors(1024).level == "warning"
    assert check_descriptors(65_536).level == "ok"
    assert check_processes(1024).level == "warning"
    assert check_processes(None).level == "ok"


def test_no_shared_memory_is_a_problem(tmp_path):
    assert check_shared_memory(tmp_path / "shm").level == "problem"


# ---- folders ----


def test_little_space_is_a_warning_and_a_folder_that_cannot_be_written_a_problem():
    root = Path("/mnt/runs")
    assert check_root(root, folder()).level == "ok"
    assert check_root(root, folder(free_bytes=2**20)).level == "warning"
    assert check_root(root, folder(free_files=12)).level == "warning"
    full = check_root(root, folder(existing=Path("/mnt"), why_not_writable="Read-only file system"))
    assert (full.level, full.detail) == ("problem", "/mnt/runs: /mnt cannot be written to: Read-only file system")


def test_a_file_system_without_hard_links_is_a_problem(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    assert look_at_folder(tmp_path).why_not_published == ""
    monkeypatch.setattr(os, "link", refuse)
    check = check_root(tmp_path, look_at_folder(tmp_path / "runs"))
    assert check.level == "problem"
    assert "no hard link could be made" in check.detail
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_where_links_replace_what_is_there_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", shutil.copy)
    assert "replaces what is there" in check_root(tmp_path, look_at_folder(tmp_path)).detail


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_root_is_found_though_root_may_write_everywhere(tmp_path):
    command = ["mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path)]
    if subprocess.run(command, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        assert check_root(tmp_path, look_at_folder(tmp_path)).level == "problem"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_so_full_that_ray_stops_is_a_warning():
    assert check_scratch(folder()).level == "ok"
    check = check_scratch(folder(free_bytes=30 * GIB))
    assert check.level == "warning"
    assert "97% full" in check.detail
    assert check_scratch(folder(why_not_writable="Permission denied")).level == "problem"


def test_the_folder_that_is_looked_at_is_the_nearest_that_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folders.nearest_folder(Path("a/b/c")) == tmp_path


# ---- surroundings ----


def test_variables_that_lead_commands_elsewhere_are_told():
    assert check_ray("2.60.0", {}, {}).level == "ok"
    elsewhere = check_ray("2.60.0", {"RAY_ADDRESS": "10.0.0.9:6379"}, {})
    assert elsewhere.level == "warning"
    assert "10.0.0.9:6379" in elsewhere.detail
    inside_a_job = {"RAY_ADDRESS": "10.0.0.9:6379", "RAY_JOB_ID": "0100"}
    assert check_ray("2.60.0", inside_a_job, {}).level == "ok"


def test_a_proxy_must_leave_this_machine_alone():
    assert check_ray("2.60.0", {}, PROXY).level == "warning"
    assert check_ray("2.60.0", {}, PROXY | {"no": "localhost,127.0.0.1"}).level == "ok"
    assert check_ray("2.60.0", {}, {"https": "http://proxy:3128"}).level == "ok"


def test_a_tracking_server_that_cannot_be_reached_is_a_warning_and_none_is_fine():
    assert check_tracking("", has_key=False).level == "ok"
    assert check_tracking("", has_key=True).level == "ok"
    assert check_tracking("https://host cannot be reached: timed out", has_key=True).level == "warning"


@pytest.fixture
def serve():
    """A function that starts a server with one answer and returns its address."""
    servers = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, *arguments) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "reached"), [(200, True), (404, True), (503, False)])
def test_any_answer_but_that_of_a_gateway_shows_that_a_server_is_there(serve, status, reached):
    assert (try_url(serve(status)) == "") is reached


def test_nobody_listening_is_told_with_the_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert try_url(url) == f"{url} cannot be reached: [Errno 111] Connection refused"
