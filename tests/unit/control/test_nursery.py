"""The nursery with real forks: what it answers, what it does when others die. It imports the training stack once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from orchestrator.control.board import Board
from orchestrator.control.jobs import RankSetup, StoreSetup
from orchestrator.control.nursery import LastingNursery, NurseryAddress, start_nursery

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NurseryAddress]:
    address = NurseryAddress.invent("cpu")
    process = start_nursery(address, tmp_path_factory.mktemp("logs"), {})
    yield address
    process.kill()
    process.wait()


def setup_of(folder: Path, board: str, parent: int | None = None) -> RankSetup:
    return RankSetup(
        run=folder, host="127.0.0.1", board=board, stacks=os.devnull, node_actor_pid=parent or os.getpid(),
        device="cpu", threads=1, env={"A_VARIABLE": "of the rank"},
    )  # fmt: skip


def wait_for_end(pid: int) -> None:
    try:
        psutil.Process(pid).wait(timeout=TIMEOUT_S)
    except psutil.NoSuchProcess:
        return


def read_to_the_end(connection: Connection) -> None:
    while True:
        connection.recv()


def test_a_rank_is_forked_and_its_death_is_end_of_file(nursery: NurseryAddress, tmp_path: Path) -> None:
    board, path = Board.create()
    board.renew(TIMEOUT_S)
    with nursery.connect(TIMEOUT_S) as connection:
        connection.send(setup_of(tmp_path, path))
        pid = connection.recv()
        assert pid != os.getpid()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises((EOFError, ConnectionResetError)):
            read_to_the_end(connection)
        wait_for_end(pid)  # nobody but the nursery could bury it


def test_a_rank_without_a_lease_ends_itself(nursery: NurseryAddress, tmp_path: Path) -> None:
    _, path = Board.create()
    with nursery.connect(TIMEOUT_S) as connection:
        connection.send(setup_of(tmp_path, path))
        with pytest.raises((EOFError, ConnectionResetError)):
            read_to_the_end(connection)


def test_a_rank_ends_with_its_node_actor(nursery: NurseryAddress, tmp_path: Path) -> None:
    board, path = Board.create()
    board.renew(TIMEOUT_S)
    node_actor = subprocess.Popen(["sleep", "600"])
    with nursery.connect(TIMEOUT_S) as connection:
        connection.send(setup_of(tmp_path, path, node_actor.pid))
        connection.recv()
        node_actor.kill()
        node_actor.wait()
        with pytest.raises((EOFError, ConnectionResetError)):
            read_to_the_end(connection)  # it may have got warm before it knew


def test_a_store_answers_and_ends_with_its_connection(nursery: NurseryAddress) -> None:
    from orchestrator.control.store import open_store

    with nursery.connect(TIMEOUT_S) as connection:
        connection.send(StoreSetup("127.0.0.1"))
        port, _ = connection.recv()
        store = open_store("127.0.0.1", port, "g1", TIMEOUT_S)
        store.set("a", "b")
        assert store.get("a") == b"b"
        assert open_store("127.0.0.1", port, "g2", TIMEOUT_S).check(["a"]) is False


def test_a_wrong_key_and_a_client_that_goes_away_do_no_harm(nursery: NurseryAddress, tmp_path: Path) -> None:
    from multiprocessing import AuthenticationError

    stranger = NurseryAddress(nursery.name, "0" * 64, "cpu")
    with pytest.raises(AuthenticationError):
        stranger.connect(TIMEOUT_S)
    nursery.connect(TIMEOUT_S).close()
    assert nursery.is_listening()
    test_a_store_answers_and_ends_with_its_connection(nursery)


def test_a_nursery_ends_with_its_parent() -> None:
    code = (
        "import sys, time; from orchestrator.control.nursery import NurseryAddress, start_nursery\n"
        "print(start_nursery(NurseryAddress.invent('cpu'), None, {}).pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for_end(pid)


def test_nobody_listens_where_there_is_no_nursery() -> None:
    assert not NurseryAddress.invent("cpu").is_listening()


def test_a_node_uses_the_nursery_that_was_started_for_it(
    nursery: NurseryAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in nursery.as_environment().items():
        monkeypatch.setenv(name, value)
    with LastingNursery("cpu", tmp_path, {}).connect(TIMEOUT_S) as connection:
        connection.send(StoreSetup("127.0.0.1"))
        assert min(connection.recv()) > 0  # port and process
    assert not list(tmp_path.iterdir())  # no other was started
