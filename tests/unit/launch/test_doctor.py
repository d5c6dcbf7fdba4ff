import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from launch.checks.check import Check, Checkup
from launch.checks.machine import check_machine
from launch.doctor import exit_code, show_checkup, show_machine
from launch.screen import Screen
from orchestrator.core.words import ExitCode

FINE = [Check("ok", "python", "3.11.7"), Check("ok", "memory", "503.5 GiB")]
NO_SPACE = Check("warning", "root", "/mnt/all/runs has 2.0 GiB free", "free space, or give another folder as root")
SMALL = Check("problem", "shared memory", "there is no /dev/shm", "mount a tmpfs at /dev/shm")


def shown(checkup: Checkup, width: int = 80) -> str:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=width, record=True, file=nowhere)
        show_checkup(checkup, as_json=False, screen=Screen(console))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


# ---- this machine ----


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """A folder, and what was found with root below it."""
    folder = tmp_path_factory.mktemp("doctor")
    return folder, check_machine(folder / "runs" / "not yet there", has_wandb_key=False)


def test_a_machine_that_passes_its_tests_has_no_problem(looked):
    folder, checks = looked
    assert [check for check in checks if check.level == "problem"] == []
    assert list(folder.iterdir()) == []  # looking leaves nothing behind


def test_every_check_has_one_name_and_says_what_to_do_unless_it_is_ok(looked):
    _, checks = looked
    assert len({check.what for check in checks}) == len(checks)
    for check in checks:
        assert check.level == "ok" or check.remedy


def test_root_below_a_file_is_a_problem_of_root_alone(tmp_path, capsys):
    file = tmp_path / "runs"
    file.touch()
    assert show_machine(file, as_json=False, screen=Screen(Console(width=80))) is ExitCode.BAD_INPUT
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem")]
    assert [line.split()[1] for line in problems] == ["root"]


def test_json_is_one_line_from_which_the_same_findings_come(capsys):
    checkup = Checkup({"node-1": [*FINE, SMALL], "node-2": FINE}, [Check("ok", "clocks", "agree")])
    assert show_checkup(checkup, as_json=True, screen=Screen()) is ExitCode.BAD_INPUT
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["format"] == 1
    assert Checkup.from_json(json.loads(line)) == checkup


def test_only_problems_make_the_exit_code():
    assert exit_code(Checkup({"here": [NO_SPACE]})) is ExitCode.DONE
    assert exit_code(Checkup({"here": [NO_SPACE, SMALL]})) is ExitCode.BAD_INPUT
    assert exit_code(Checkup({"here": FINE}, [SMALL])) is ExitCode.BAD_INPUT


# ---- what people see ----


def test_a_machine_at_80_columns():
    long = Check("warning", "Ray", "2.60.0; http_proxy also takes what is meant for this machine", "add localhost")
    assert shown(Checkup({"here": [*FINE, NO_SPACE, long, SMALL]})) == (
        """\
ok       python         3.11.7
ok       memory         503.5 GiB
warning  root           /mnt/all/runs has 2.0 GiB free
                        -> free space, or give another folder as root
warning  Ray            2.60.0; http_proxy also takes what is meant for this
                        machine
                        -> add localhost
problem  shared memory  there is no /dev/shm
                        -> mount a tmpfs at /dev/shm
1 problem and 2 warnings"""
    )


def test_what_nodes_have_in_common_is_one_line_and_what_one_has_is_shown_with_its_name():
    checkup = Checkup(
        {
            "node-1": [*FINE, Check("ok", "shared memory", "/dev/shm has 251.7 GiB")],
            "node-2": [*FINE, SMALL],
            "node-3": [FINE[0], Check("ok", "memory", "1007.0 GiB"), SMALL],
            "node-4": [Check("problem", "answer", "no answer within 120 s", "is it up?")],
        },
        [Check("problem", "connections", "node-1 does not reach node-2: timed out", "let all nodes connect")],
    )
    assert shown(checkup) == (
        """\
4 nodes: node-1, node-2, node-3, node-4
ok       python         3.11.7
ok       memory         2 of 3 nodes: 503.5 GiB
ok       memory         node-3: 1007.0 GiB
ok       shared memory  node-1: /dev/shm has 251.7 GiB
problem  shared memory  node-2, node-3: there is no /dev/shm
                        -> mount a tmpfs at /dev/shm
problem  answer         node-4: no answer within 120 s
                        -> is it up?
problem  connections    node-1 does not reach node-2: timed out
                        -> let all nodes connect
3 problems"""
    )


def test_many_nodes_are_counted_and_those_that_differ_in_an_ok_value_stay_one_line():
    nodes = {
        f"node-{i}": [Check("ok", "python", "3.11.7"), Check("ok", "root", f"runs has {i}.0 GiB free")]
        for i in range(8)
    }
    nodes["node-7"][1] = NO_SPACE
    assert shown(Checkup(nodes)) == (
        """\
8 nodes: node-0, node-1, node-2 and 5 more
ok       python  3.11.7
ok       root    7 of 8 nodes: runs has 0.0 GiB free on node-0, the others are
                 fine, too
warning  root    node-7: /mnt/all/runs has 2.0 GiB free
                 -> free space, or give another folder as root
1 warning"""
    )


def test_what_is_wrong_on_all_of_many_nodes_says_so():
    text = shown(Checkup({f"node-{i}": [SMALL] for i in range(8)}))
    assert "shared memory  all 8 nodes: there is no /dev/shm" in text


def test_when_nothing_is_wrong_that_is_said():
    assert shown(Checkup({"here": FINE})).splitlines()[-1] == "nothing is wrong"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_brackets_and_long_paths_are_shown_whole(width):
    path = f"/runs/[red]/{'x' * 120}"
    text = shown(Checkup({"here": [Check("problem", "root", path, "[/] is no remedy")]}), width)
    assert path in "".join(text.split())
    assert "[/]isnoremedy" in "".join(text.split())
