from orchestrator.control.faults import describe_problems, problem_of
from orchestrator.core.errors import DataError


def caught(error: Exception) -> Exception:
    try:
        raise error  # noqa: TRY301
    except Exception as raised:  # noqa: BLE001
        return raised


def test_a_broken_connection_is_an_echo_and_other_errors_are_not() -> None:
    echo = caught(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"))
    assert problem_of(echo, rank=0, node="n", step=3).collateral
    assert not problem_of(caught(RuntimeError("shape mismatch")), rank=0, node="n", step=3).collateral
    assert not problem_of(caught(KeyError("Connection closed by peer")), rank=0, node="n", step=3).collateral


def test_our_own_errors_carry_their_exit_code_and_no_traceback() -> None:
    problem = problem_of(caught(DataError("gone", where="x.tar")), rank=0, node="n", step=3)
    assert (problem.exit_code, problem.traceback) == (2, "")
    assert "raise error" in problem_of(caught(ValueError("x")), rank=0, node="n", step=3).traceback


def test_a_known_kind_of_error_comes_with_what_to_try() -> None:
    text = describe_problems([problem_of(caught(MemoryError("CUDA out of memory")), rank=0, node="n", step=3)])
    assert "train.micro_batch" in text


def test_equal_problems_are_told_once_and_echoes_are_counted() -> None:
    causes = [problem_of(caught(ValueError("bad row")), rank=r, node="n", step=3) for r in (2, 1)]
    echo = problem_of(caught(RuntimeError("Connection reset by peer")), rank=0, node="n", step=3)
    text = describe_problems([echo, *causes])
    assert text.count("ValueError: bad row") == 2  # the line, and the last line of its one traceback
    assert text.startswith("rank 1, 2 on n at step 3")
    assert "1 other rank(s)" in text
