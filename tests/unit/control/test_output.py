"""What processes print lands in their logs, within a limit: real processes, real files."""

import subprocess
import sys
from pathlib import Path

from orchestrator.storage.logfiles import list_log_files

PREPARE = """
import os, resource, signal, sys, threading, time
from pathlib import Path
from orchestrator.control.logs import Rotation, keep_output
from orchestrator.storage.logfiles import list_log_files
folder = Path(sys.argv[1])
path = folder / "rank.log"
"""
UNTIL_MANY_FILES = """
keep_output(folder, "rank", Rotation(file_bytes=5_000, files=int(sys.argv[3]), check_every_s=0.002))
number = 0
while list_log_files(folder).get(path, [0])[-1] < 12:
    print(f"{sys.argv[2]} printed {number:09d}")
    print(f"{sys.argv[2]} complained {number:09d}", file=sys.stderr)
    os.write(1, b"%s wrote %09d\\n" % (sys.argv[2].encode(), number))
    number += 1
(folder / f"{sys.argv[2]}.count").write_text(str(number))
"""


def start(code: str, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PREPARE + code, str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(code: str, folder: Path, *arguments: str) -> int:
    process = start(code, folder, *arguments)
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output == b""  # nothing goes where it went before
    return process.returncode


def files_of(folder: Path) -> list[Path]:
    """Oldest first."""
    return [*sorted(folder.glob("rank.log.*")), folder / "rank.log"]


def test_of_two_processes_that_share_a_log_no_line_is_lost_or_torn_by_rotation(tmp_path: Path) -> None:
    processes = [start(UNTIL_MANY_FILES, tmp_path, name, "1000") for name in ("old", "new")]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    for process in processes:
        process.stdout.close()
    expected = [
        f"{name} {did} {number:09d}"
        for name in ("old", "new")
        for number in range(int((tmp_path / f"{name}.count").read_text()))
        for did in ("printed", "complained", "wrote")
    ]
    *rotated, current = files_of(tmp_path)
    lines = [line for path in (*rotated, current) for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(expected)
    assert [path for path in rotated if path.stat().st_size <= 5_000] == []  # each was renamed once, when it was full


def test_only_the_newest_files_stay(tmp_path: Path) -> None:
    assert run(UNTIL_MANY_FILES, tmp_path, "rank", "4") == 0
    (numbers,) = list_log_files(tmp_path).values()
    assert numbers[-1] >= 12
    assert len(numbers) == 4


def test_complaints_alone_begin_new_files_too(tmp_path: Path) -> None:
    code = """
keep_output(folder, "rank", Rotation(file_bytes=5_000, check_every_s=0.002))
while not (folder / "rank.log.000003").exists():
    print("a complaint", file=sys.stderr)
"""
    assert run(code, tmp_path) == 0


def test_what_other_programs_and_records_print_is_kept_in_order(tmp_path: Path) -> None:
    code = """
keep_output(folder, "rank")
import logging
print("one")
os.system("echo two")
logging.getLogger("a.b").info("three %d", 3)
print("four", file=sys.stderr)
"""
    assert run(code, tmp_path) == 0
    one, two, three, four = (tmp_path / "rank.log").read_text().splitlines()
    assert (one, two, four) == ("one", "two", "four")
    assert three.endswith("INFO a.b: three 3")


def test_the_last_words_of_a_killed_process_are_there(tmp_path: Path) -> None:
    code = 'keep_output(folder, "rank"); print("last words"); os.kill(os.getpid(), signal.SIGKILL)'
    assert run(code, tmp_path) == -9
    assert (tmp_path / "rank.log").read_text() == "last words\n"


def test_a_full_disk_does_not_end_the_process_and_is_told_later(tmp_path: Path) -> None:
    code = """
keep_output(folder, "rank", None)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
for _ in range(30):
    print("x" * 99)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("there is room again")
"""
    assert run(code, tmp_path) == 0
    *written, lost, last = (tmp_path / "rank.log").read_text().splitlines()
    assert written == ["x" * 99] * 10
    assert lost == "[2000 bytes could not be written]"
    assert last == "there is room again"


def test_when_no_new_file_can_be_made_the_old_one_is_written_on(tmp_path: Path) -> None:
    code = """
keep_output(folder / "logs", "rank", Rotation(file_bytes=10, check_every_s=0.002))
(folder / "logs").rename(folder / "away")
print("a line that is longer than a file")
time.sleep(0.1)  # many looks
print("still here")
(folder / "away").rename(folder / "logs")
while not (folder / "logs" / "rank.log.000001").exists():
    time.sleep(0.002)
"""
    assert run(code, tmp_path) == 0
    assert (tmp_path / "logs" / "rank.log.000001").read_text().endswith("file\nstill here\n")


def test_a_process_that_forks_gets_no_thread(tmp_path: Path) -> None:
    code = """
keep_output(folder, "rank", None)
without = threading.active_count()
keep_output(folder, "rank")
print(without, threading.active_count())
"""
    assert run(code, tmp_path) == 0
    assert (tmp_path / "rank.log").read_text() == "1 2\n"
