from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console

from launch.doctor import (
    Check,
    check_accelerators,
    check_compiler,
    check_descriptors,
    check_machine,
    check_packages,
    check_python,
    check_root,
    check_shared_memory,
    check_system,
    exit_code,
    print_checks,
)
from orchestrator.core.words import ExitCode

DEEPSPEED = Requirement("deepspeed>=0.19.8,<0.20")
VERSIONS = {"torch": "2.13.0+cpu", "deepspeed": "0.19.8", "ray": "2.60.0"}
MUCH = 2**50


def test_a_machine_that_passes_its_tests_has_no_problem(tmp_path):
    checks = check_machine(tmp_path / "runs" / "not yet there")
    assert [check for check in checks if check.level == "problem"] == []
    assert not (tmp_path / "runs").exists()  # looking leaves nothing behind


def test_every_check_that_is_not_ok_says_what_to_do(tmp_path):
    for check in check_machine(tmp_path):
        assert check.level == "ok" or check.remedy


def test_root_below_a_file_is_a_problem(tmp_path):
    file = tmp_path / "runs"
    file.touch()
    assert [check.what for check in check_machine(file) if check.level == "problem"] == ["root"]


def test_packages_in_their_ranges_are_named_with_their_versions():
    check = check_packages([DEEPSPEED], VERSIONS)
    assert check.level == "ok"
    assert "deepspeed 0.19.8" in check.detail


def test_each_package_that_is_missing_or_out_of_range_is_named():
    check = check_packages([DEEPSPEED, Requirement("wandb>=0.31")], VERSIONS | {"deepspeed": "0.20.1"})
    assert check.level == "problem"
    assert "deepspeed 0.20.1 is not <0.20,>=0.19.8" in check.detail
    assert "wandb is missing" in check.detail


def test_a_build_for_one_device_counts_as_its_version():
    assert check_packages([Requirement("torch<2.14,>=2.11")], VERSIONS).level == "ok"


def test_old_python_and_other_systems_are_problems():
    assert check_python("3.10.4", ">=3.11").level == "problem"
    assert check_python("3.12.1", ">=3.11").level == "ok"
    assert check_system("Darwin", "25.0").level == "problem"


def test_a_missing_compiler_is_a_warning_only():
    check = check_compiler(None, "/usr/bin/ninja")
    assert (check.level, check.detail) == ("warning", "no C++ compiler")


def test_gpus_are_counted_by_name_and_need_a_torch_that_can_use_them():
    names = ["H100", "H100", "L4"]
    assert check_accelerators(names, "2.13.0+cu130").detail == "2 x H100, 1 x L4"
    assert check_accelerators(names, "2.13.0+cpu").level == "warning"
    assert check_accelerators([], "2.13.0+cpu").level == "ok"


def test_no_shared_memory_is_a_problem(tmp_path):
    assert check_shared_memory(tmp_path / "shm").level == "problem"


def test_little_space_is_a_warning_and_a_folder_that_cannot_be_written_a_problem(tmp_path):
    assert check_root(tmp_path, tmp_path, "", MUCH).level == "ok"
    assert check_root(tmp_path, tmp_path, "", 2**20).level == "warning"
    full = check_root(Path("/runs"), Path("/"), "Read-only file system", MUCH)
    assert (full.level, full.detail) == ("problem", "/runs: / cannot be written to: Read-only file system")


def test_a_low_limit_of_open_files_is_a_warning():
    assert check_descriptors(1024).level == "warning"
    assert check_descriptors(65_536).level == "ok"


def test_only_problems_make_the_exit_code():
    warning = Check("warning", "compiler", "no ninja", "install it")
    assert exit_code([warning]) is ExitCode.DONE
    assert exit_code([warning, Check("problem", "root", "full", "free space")]) is ExitCode.BAD_INPUT


def test_the_table_shows_level_finding_and_remedy():
    console = Console(width=120, record=True)
    print_checks([Check("problem", "root", "/runs is [red]", "free space")], console)
    text = console.export_text()
    for part in ("problem", "root", "/runs is [red]", "free space"):
        assert part in text
