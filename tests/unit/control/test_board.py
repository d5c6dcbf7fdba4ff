import subprocess
import sys
from pathlib import Path

from orchestrator.control.board import Board
from orchestrator.core.words import Word


def test_another_process_reads_and_writes_the_same_board() -> None:
    board, path = Board.create()
    board.say(Word.STOP)
    board.renew(60.0)
    code = (
        "import sys; from orchestrator.control.board import Board; b = Board.open(sys.argv[1]);"
        "print(int(b.word()), b.lease_lapsed()); b.show(41, 'evaluate'); b.show_busy(0.25)"
    )
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.split() == ["1", "False"]
    assert (board.step, board.phase, board.progress, board.busy_s) == (41, "evaluate", 1, 0.25)


def test_a_board_without_renewal_has_lapsed() -> None:
    board, _ = Board.create()
    assert board.lease_lapsed()
    board.renew(60.0)
    assert not board.lease_lapsed()
    board.renew(-1.0)
    assert board.lease_lapsed()


def test_nothing_of_a_board_is_in_a_folder() -> None:
    _, path = Board.create()
    assert path.startswith("/proc/")
    assert str(Path(path).readlink()).startswith("/memfd:longhaul")
