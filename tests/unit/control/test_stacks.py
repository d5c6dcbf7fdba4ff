"""Reading stacks: those of a real process, and what ranks wait in."""

import faulthandler
import tempfile
import threading

import pytest

from orchestrator.control.stacks import describe_place, describe_stacks, read_threads, waits_for_others

TORCH = "/env/site-packages/torch/"
DEEPSPEED = "/env/site-packages/deepspeed/"
LOOP = ("/env/orchestrator/train/loop.py", "update")


def stacks(*threads: list[tuple[str, str]], current: int | None = -1) -> str:
    """As faulthandler writes them, innermost frames first."""
    lines = []
    for number, thread in enumerate(threads):
        is_current = current is not None and number == current % len(threads)
        head = "Current thread" if is_current else "Thread"
        lines.append(f"{head} 0x00007f00000000{number:02d} (most recent call first):")
        lines += [f'  File "{file}", line 7 in {function}' for file, function in thread]
        lines.append("")
    return "\n".join(lines)


def test_real_stacks_are_read() -> None:
    hold, ready = threading.Event(), threading.Event()

    def wait_in_a_thread() -> None:
        ready.set()
        hold.wait()

    thread = threading.Thread(target=wait_in_a_thread)
    thread.start()
    ready.wait()
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        hold.set()
        thread.join()
        file.seek(0)
        text = file.read()
    threads = read_threads(text)
    assert threads[0][0].function == "test_real_stacks_are_read"
    assert any(frame.function == "wait_in_a_thread" for frames in threads[1:] for frame in frames)
    assert describe_place(text).startswith(f"test_real_stacks_are_read ({__file__}:")


@pytest.mark.parametrize(
    "thread",
    [
        [(f"{TORCH}distributed/distributed_c10d.py", "all_reduce"), LOOP],
        [(f"{TORCH}utils/_contextlib.py", "wrap"), (f"{TORCH}distributed/c10d_logger.py", "wrapper"), LOOP],
        [(f"{DEEPSPEED}comm/torch.py", "all_reduce"), LOOP],
        [(f"{DEEPSPEED}runtime/zero/partition_parameters.py", "wait"), LOOP],
        [(f"{TORCH}cuda/streams.py", "synchronize"), LOOP],
    ],
)
def test_what_waits_for_others(thread: list[tuple[str, str]]) -> None:
    assert waits_for_others(stacks(thread))


@pytest.mark.parametrize(
    "thread",
    [
        [("/home/me/augment.py", "fullmatch"), LOOP],
        [("/home/me/hook.py", "sleep"), *[(f"{TORCH}nn/modules/module.py", "_call_impl")] * 4, LOOP],
        [LOOP, *[("/x.py", "f")] * 4, (f"{TORCH}distributed/run.py", "main")],
        [],
    ],
)
def test_what_does_not(thread: list[tuple[str, str]]) -> None:
    assert not waits_for_others(stacks(thread))


def test_a_hook_of_backward_may_wait_in_another_thread() -> None:
    hook = [(f"{DEEPSPEED}comm/torch.py", "all_reduce")]
    assert waits_for_others(stacks(hook, [(f"{TORCH}autograd/graph.py", "_engine_run_backward"), LOOP]))


def test_the_main_thread_is_the_last_where_none_is_marked() -> None:
    assert describe_place(stacks([("/t.py", "run")], [LOOP], current=None)) == f"{LOOP[1]} ({LOOP[0]}:7)"
    assert describe_place("") == "code without a Python frame"


def test_of_its_own_stacks_those_of_the_main_thread_come_first() -> None:
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        main, *others = read_threads(describe_stacks())
    finally:
        done.set()
        other.join()
    assert "test_of_its_own_stacks_those_of_the_main_thread_come_first" in [frame.function for frame in main]
    assert any("wait" in [frame.function for frame in thread] for thread in others)
