"""The screens of `status` and `list`, letter by letter, from real run directories."""

import io
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from rich.console import Console

from launch.here import Here
from launch.screen import Screen
from launch.status import show_list, show_status
from orchestrator.core.words import ExitCode
from orchestrator.storage.publish import publish_json
from orchestrator.tracking.now import RankNow, Waiting
from tests.fakes.clock import FakeClock
from tests.fakes.run_dirs import WrittenRun, offer, ranks_now

pytestmark = pytest.mark.usefixtures("utc")


@pytest.fixture(autouse=True)
def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "head")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_790_000_000.0)


@pytest.fixture
def run(tmp_path: Path, clock: FakeClock) -> Iterator[WrittenRun]:
    made = WrittenRun(tmp_path / "demo", clock)
    yield made
    made.close()


def status_of(run: WrittenRun, encoding: str = "utf-8") -> str:
    return show(run.run_dir.path.parent, run.clock, "demo", encoding=encoding)


def show(root: Path, clock: FakeClock, name: str | None, *, encoding: str = "utf-8") -> str:
    """The screen of one run, or the list of all, at 80 columns; blanks at the ends of lines are cut."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    screen = Screen(Console(file=file, width=80))
    place = Here([root], clock)
    if name is None:
        code = show_list(place, as_json=False, screen=screen)
    else:
        code = show_status(place, name, watch=False, as_json=False, screen=screen)
    assert code is ExitCode.DONE
    file.seek(0)
    text = file.read().replace(str(root), "/runs")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def expected(text: str) -> str:
    return dedent(text).lstrip("\n")


def train(run: WrittenRun) -> None:
    """1,204 of 2,000 steps on 2 nodes with 2 ranks each, with a restart among them."""
    run.claim()
    run.start(2, 2)
    run.train(range(620), loss=[2.0 - step / 1_000 for step in range(620)])
    folder = run.save(600)
    run.restart("rank process 4001 died")
    run.start(2, 2, folder)
    run.train(range(600, 1_204), loss=[2.0 - step / 1_000 for step in range(1_204)])
    run.evaluate(1_200, 0.81, 2.25)
    run.save(1_200)
    run.clock.sleep(2.0)


def test_running(run: WrittenRun) -> None:
    train(run)
    run.show(ranks_now(2, 2, 1_204, slow={3: 0.71}))
    assert status_of(run) == expected("""
        demo  running

        step        ━━━━━━━━━━━━━━──────────  1,204 of 2,000, 6 min left
        loss        0.7970  ████████▇▇▇▇▇▇▇▆▆▆▆▆▆▆▆▅▅▅▅▅▅▅▄▄▄▄▄▄▄▃▃▃▃▃▃▃▃▂▂▂▂▂▂▂▁▁▁▁▁▁▁▁
        validation  0.8100, perplexity 2.25, at step 1,200
        speed       0.5 s a step, 8,192 tokens a second, 1.0 % data wait
        world       4 ranks on 2 nodes, generation 2, 1 restart
        time        began 14:13:20, 10 min ago
        goodput     97.1 % of 10 min; lost 10 s, data wait 6 s, idle 2 s
        checkpoint  of step 1,200, 2 s ago
        directory   /runs/demo

        node    rank   pid   step  does    busy
        node-0     0  4000  1,204  step  0.40 s
                   1  4001  1,204  step  0.40 s
        node-1     2  4002  1,204  step  0.40 s
                   3  4003  1,204  step  0.71 s  slow

        14:13:20  ranks warm up on 2 nodes
        14:13:20  started on 4 ranks from step 0
        14:18:30  checkpoint of step 600, written in 1.2 s
        14:18:30  fault: rank process 4001 died
        14:18:30  a controller on head takes charge of generation 2
        14:18:30  ranks warm up on 2 nodes
        14:18:30  started on 4 ranks from step-00000600-g0001
        14:23:32  checkpoint of step 1,200, written in 1.2 s

        longhaul logs --follow demo --root /runs
        longhaul stop demo --root /runs
        """)


def test_running_where_the_terminal_knows_ascii_only(run: WrittenRun) -> None:
    train(run)
    assert status_of(run, encoding="ascii") == expected("""
        demo  running

        step        ==============----------  1,204 of 2,000, 6 min left
        loss        0.7970  ########*******++++++++=======-------::::::::.......________
        validation  0.8100, perplexity 2.25, at step 1,200
        speed       0.5 s a step, 8,192 tokens a second, 1.0 % data wait
        world       4 ranks on 2 nodes, generation 2, 1 restart
        time        began 14:13:20, 10 min ago
        goodput     97.1 % of 10 min; lost 10 s, data wait 6 s, idle 2 s
        checkpoint  of step 1,200, 2 s ago
        directory   /runs/demo

        14:13:20  ranks warm up on 2 nodes
        14:13:20  started on 4 ranks from step 0
        14:18:30  checkpoint of step 600, written in 1.2 s
        14:18:30  fault: rank process 4001 died
        14:18:30  a controller on head takes charge of generation 2
        14:18:30  ranks warm up on 2 nodes
        14:18:30  started on 4 ranks from step-00000600-g0001
        14:23:32  checkpoint of step 1,200, written in 1.2 s

        longhaul logs --follow demo --root /runs
        longhaul stop demo --root /runs
        """)


def test_running_on_many_ranks_that_stand_still(run: WrittenRun) -> None:
    run.claim()
    run.start(8, 8)
    run.train(range(300), step_s=2.31, loss=[5.0] * 300)
    run.show(ranks_now(8, 8, 300, busy_s=2.0, slow={11: 2.9, 40: 3.1, 41: 3.0, 43: 3.0}))
    run.clock.sleep(100.0)
    assert status_of(run) == expected("""
        demo  running

        step        ━━━─────────────────────  300 of 2,000, 1 h 5 min left
                    no step has been done for 100 s
        loss        5.0000  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
        speed       2.31 s a step, 1,773 tokens a second, 1.0 % data wait
        world       64 ranks on 8 nodes
        time        began 14:13:20, 13 min ago
        goodput     86.5 % of 13 min; idle 100 s, data wait 6.9 s
        directory   /runs/demo

        as of 100 s ago
        node    ranks  step  does         busy
        node-0  0-7     300  step       2.00 s
        node-1  8-15    300  step  2.00-2.90 s  slow: rank 11
        node-2  16-23   300  step       2.00 s
        node-3  24-31   300  step       2.00 s
        node-4  32-39   300  step       2.00 s
        node-5  40-47   300  step  2.00-3.10 s  slow: ranks 40-41, 43
        node-6  48-55   300  step       2.00 s
        node-7  56-63   300  step       2.00 s

        14:13:20  a controller on head takes charge of generation 1
        14:13:20  ranks warm up on 8 nodes
        14:13:20  started on 64 ranks from step 0

        longhaul logs --follow demo --root /runs
        longhaul stop demo --root /runs
        """)


def test_of_hundreds_of_nodes_those_with_something_to_see_are_shown(run: WrittenRun) -> None:
    run.claim()
    run.start(200, 8)
    run.show(ranks_now(200, 8, 7, slow={1_599: 0.9}))
    assert status_of(run).split("\n\n")[2] + "\n" == expected("""
        node          ranks        step  does         busy
        node-199      1592-1599       7  step  0.40-0.90 s  slow: rank 1599
        node-0        0-7             7  step       0.40 s
        node-1        8-15            7  step       0.40 s
        node-2        16-23           7  step       0.40 s
        node-3        24-31           7  step       0.40 s
        node-4        32-39           7  step       0.40 s
        node-5        40-47           7  step       0.40 s
        node-6        48-55           7  step       0.40 s
        node-7        56-63           7  step       0.40 s
        node-8        64-71           7  step       0.40 s
        node-9        72-79           7  step       0.40 s
        node-10       80-87           7  step       0.40 s
        node-11       88-95           7  step       0.40 s
        node-12       96-103          7  step       0.40 s
        node-13       104-111         7  step       0.40 s
        node-14       112-119         7  step       0.40 s
        and 184 more  1,472 ranks     7  step       0.40 s
        """)


def test_warming(run: WrittenRun) -> None:
    run.claim()
    run.journal.append("warming", nodes=["a"])
    warm = [
        RankNow(rank=None, host="node-0", local_rank=i, pid=40 + i, state=state, step=0, phase="", busy_s=0.0)
        for i, state in enumerate(["ready", "warming"])
    ]
    run.show(warm)
    assert status_of(run) == expected("""
        demo  pending: ranks warm up

        step        ────────────────────────  0 of 2,000
        time        began 14:13:20, 0 s ago
        directory   /runs/demo

        node    rank  pid  step  does     busy
        node-0         40     0  ready
                       41     0  warming

        14:13:20  a controller on head takes charge of generation 1
        14:13:20  ranks warm up on 1 node

        longhaul status --watch demo --root /runs
        longhaul stop demo --root /runs
        """)


def test_pending(run: WrittenRun) -> None:
    run.claim()
    run.clock.sleep(250.0)
    nodes = [
        offer("gpu-a", {"CPU": 4.0, "GPU": 0.0}, {"CPU": 64.0, "GPU": 8.0}, "held by this run"),
        offer("gpu-b", {"CPU": 64.0, "GPU": 3.0}, {"CPU": 64.0, "GPU": 8.0}, "3 of 8 GPU free"),
        offer("head", {"CPU": 8.0, "GPU": 0.0}, {"CPU": 8.0, "GPU": 0.0}, "too small: 8 CPU, 0 GPU"),
    ]
    asked = {"CPU": 16.0, "GPU": 8.0}
    since = run.clock.now() - 250.0
    run.show(waiting=Waiting(since=since, asked=asked, needed=2, wanted=4, ready=1, nodes=nodes))
    assert status_of(run) == expected("""
        demo  pending: waiting for nodes for 4 min, 1 of 2 ready

        step        ────────────────────────  0 of 2,000
        time        began 14:13:20, 4 min ago
        directory   /runs/demo

        asked: 2 to 4 nodes, each with 16 CPU, 8 GPU free
        node   free                      why not
        gpu-a  4 of 64 CPU, 0 of 8 GPU   held by this run
        gpu-b  64 of 64 CPU, 3 of 8 GPU  3 of 8 GPU free
        head   8 of 8 CPU, 0 of 0 GPU    too small: 8 CPU, 0 GPU

        14:13:20  a controller on head takes charge of generation 1

        longhaul status --watch demo --root /runs
        longhaul stop demo --root /runs
        """)


def test_pending_on_an_empty_cluster(run: WrittenRun) -> None:
    run.claim()
    run.show(waiting=Waiting(since=run.clock.now(), asked={"CPU": 1.0}, needed=1, wanted=1, ready=0, nodes=[]))
    assert status_of(run).split("\n\n")[2] + "\n" == expected("""
        asked: 1 node, each with 1 CPU free
        no node of the cluster is alive
        """)


def test_preparing(run: WrittenRun) -> None:
    assert status_of(run) == expected("""
        demo  preparing: no controller has taken charge yet

        step        ────────────────────────  0 of 2,000
        directory   /runs/demo

        longhaul status --watch demo --root /runs
        longhaul stop demo --root /runs
        """)


def test_preparing_while_ranks_train(run: WrittenRun) -> None:
    train(run)
    publish_json(run.run_dir.manifest, {"format": 1, "segments": ["id"] * 3, "expected": 8})
    lines = status_of(run).splitlines()
    speed = next(number for number, line in enumerate(lines) if line.startswith("speed"))
    assert lines[speed + 1] == "data        3 of 8 segments are prepared"


def test_stopping(run: WrittenRun) -> None:
    train(run)
    run.journal.append("stopping")
    assert status_of(run) == expected("""
        demo  stopping: waiting for the checkpoint

        step        ━━━━━━━━━━━━━━──────────  1,204 of 2,000
        loss        0.7970  ████████▇▇▇▇▇▇▇▆▆▆▆▆▆▆▆▅▅▅▅▅▅▅▄▄▄▄▄▄▄▃▃▃▃▃▃▃▃▂▂▂▂▂▂▂▁▁▁▁▁▁▁▁
        validation  0.8100, perplexity 2.25, at step 1,200
        speed       0.5 s a step, 8,192 tokens a second, 1.0 % data wait
        world       4 ranks on 2 nodes, generation 2, 1 restart
        time        began 14:13:20, 10 min ago
        goodput     97.1 % of 10 min; lost 10 s, data wait 6 s, idle 2 s
        checkpoint  of step 1,200, 2 s ago
        directory   /runs/demo

        14:13:20  started on 4 ranks from step 0
        14:18:30  checkpoint of step 600, written in 1.2 s
        14:18:30  fault: rank process 4001 died
        14:18:30  a controller on head takes charge of generation 2
        14:18:30  ranks warm up on 2 nodes
        14:18:30  started on 4 ranks from step-00000600-g0001
        14:23:32  checkpoint of step 1,200, written in 1.2 s
        14:23:34  ranks stop after a checkpoint

        longhaul status --watch demo --root /runs
        longhaul logs --follow demo --root /runs
        """)


def test_stopped(run: WrittenRun) -> None:
    train(run)
    run.journal.append("stopping")
    run.save(1_204)
    run.journal.append("stopped", exit_code=130, reason="", step=1_204)
    run.clock.sleep(86_400.0)
    assert status_of(run) == expected("""
        demo  stopped at step 1,204

        step        ━━━━━━━━━━━━━━──────────  1,204 of 2,000
        loss        0.7970  ████████▇▇▇▇▇▇▇▆▆▆▆▆▆▆▆▅▅▅▅▅▅▅▄▄▄▄▄▄▄▃▃▃▃▃▃▃▃▂▂▂▂▂▂▂▁▁▁▁▁▁▁▁
        validation  0.8100, perplexity 2.25, at step 1,200
        speed       0.5 s a step, 8,192 tokens a second, 1.0 % data wait
        world       4 ranks on 2 nodes, generation 2, 1 restart
        time        began 2026-09-21 14:13, ended 2026-09-21 14:23
        goodput     97.1 % of 10 min; lost 10 s, data wait 6 s, checkpoint 2 s
        checkpoint  of step 1,204, 1 d 0 h ago
        directory   /runs/demo

        2026-09-21 14:18  fault: rank process 4001 died
        2026-09-21 14:18  a controller on head takes charge of generation 2
        2026-09-21 14:18  ranks warm up on 2 nodes
        2026-09-21 14:18  started on 4 ranks from step-00000600-g0001
        2026-09-21 14:23  checkpoint of step 1,200, written in 1.2 s
        2026-09-21 14:23  ranks stop after a checkpoint
        2026-09-21 14:23  checkpoint of step 1,204, written in 1.2 s
        2026-09-21 14:23  stopped at step 1,204

        longhaul resume demo --root /runs  from step 1,204
        """)


def test_failed(run: WrittenRun) -> None:
    run.claim()
    run.start(1, 2)
    reason = """rank 1 on node-0 at step 0: ValueError: no such key [text]
Traceback (most recent call last):
  File "/a/long/path/to/the/code/of/somebody/who/likes/folders/models/thing.py", line 3
ValueError: no such key [text]
  -> look at the data"""
    run.journal.append("failed", exit_code=1, reason=reason, step=0)
    assert status_of(run) == expected("""
        demo  failed at step 0
          rank 1 on node-0 at step 0: ValueError: no such key [text]
          Traceback (most recent call last):
            File "/a/long/path/to/the/code/of/somebody/who/likes/folders/models/thing.py", line 3
          ValueError: no such key [text]
            -> look at the data

        step        ────────────────────────  0 of 2,000
        world       2 ranks on 1 node
        time        began 14:13:20, ended 14:13:20
        directory   /runs/demo

        14:13:20  a controller on head takes charge of generation 1
        14:13:20  ranks warm up on 1 node
        14:13:20  started on 2 ranks from step 0
        14:13:20  failed at step 0: rank 1 on node-0 at step 0: ValueError: no such key
                  [text]

        longhaul logs demo --root /runs
        longhaul resume demo --root /runs  from step 0
        """)


def test_a_reason_cannot_take_over_the_terminal(run: WrittenRun) -> None:
    run.claim()
    reason = "\x1b[2J\x1b[31mred\x1b[0m\n" + "and so on\n" * 100
    run.journal.append("failed", exit_code=1, reason=reason)
    text = status_of(run)
    assert text.startswith("demo  failed at step 0\n  red\n  and so on\n")
    assert text.count("and so on") == 39
    assert "  ... 61 more lines are in the logs\n" in text
    assert "\x1b" not in text


def test_lost(run: WrittenRun) -> None:
    train(run)
    run.let_go()
    run.clock.sleep(3_600.0)
    assert status_of(run) == expected("""
        demo  lost: its controller on head is gone

        step        ━━━━━━━━━━━━━━──────────  1,204 of 2,000
        loss        0.7970  ████████▇▇▇▇▇▇▇▆▆▆▆▆▆▆▆▅▅▅▅▅▅▅▄▄▄▄▄▄▄▃▃▃▃▃▃▃▃▂▂▂▂▂▂▂▁▁▁▁▁▁▁▁
        validation  0.8100, perplexity 2.25, at step 1,200
        speed       0.5 s a step, 8,192 tokens a second, 1.0 % data wait
        world       4 ranks on 2 nodes, generation 2, 1 restart
        time        began 14:13:20, last heard of 14:23:32
        goodput     97.1 % of 10 min; lost 10 s, data wait 6 s, idle 2 s
        checkpoint  of step 1,200, 1 h 0 min ago
        directory   /runs/demo

        14:13:20  ranks warm up on 2 nodes
        14:13:20  started on 4 ranks from step 0
        14:18:30  checkpoint of step 600, written in 1.2 s
        14:18:30  fault: rank process 4001 died
        14:18:30  a controller on head takes charge of generation 2
        14:18:30  ranks warm up on 2 nodes
        14:18:30  started on 4 ranks from step-00000600-g0001
        14:23:32  checkpoint of step 1,200, written in 1.2 s

        longhaul logs demo --root /runs
        longhaul resume demo --root /runs  from step 1,200
        """)


def test_done(run: WrittenRun) -> None:
    run.claim()
    run.start(1, 2)
    run.train(range(2_000), step_s=0.02, loss=[1.0] * 2_000)
    run.save(2_000)
    run.journal.append("done", exit_code=0, reason="", step=2_000)
    assert status_of(run) == expected("""
        demo  done

        step        ━━━━━━━━━━━━━━━━━━━━━━━━  2,000 of 2,000
        loss        1.0000  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
        speed       0.02 s a step, 204,800 tokens a second, 1.0 % data wait
        world       2 ranks on 1 node
        time        began 14:13:20, ended 14:14:00
        goodput     99.0 % of 40 s; data wait 0.4 s
        checkpoint  of step 2,000, 0 s ago
        directory   /runs/demo

        14:13:20  a controller on head takes charge of generation 1
        14:13:20  ranks warm up on 1 node
        14:13:20  started on 2 ranks from step 0
        14:14:00  checkpoint of step 2,000, written in 1.2 s
        14:14:00  done at step 2,000
        """)


def test_list(tmp_path: Path, clock: FakeClock) -> None:
    for name in ("first", "second-with-a-name-that-is-too-long-for-a-narrow-terminal-or-so", "third"):
        run = WrittenRun(tmp_path / name, clock)
        run.claim()
        run.start(2, 4)
        run.train(range(600), loss=[2.5] * 600)
        if name == "third":
            run.journal.append("failed", exit_code=1, reason="")
        run.close()
    (tmp_path / "first" / "plan.json").write_text('{"format": 2}')
    clock.sleep(7_300.0)
    WrittenRun(tmp_path / "fourth", clock)
    assert show(tmp_path, clock, None) == expected("""
        run                          state            step    loss  ranks        changed
        first                        unreadable
        fourth                       preparing     0/2,000                       0 s ago
        third                        failed      600/2,000  2.5000      8  2 h 1 min ago
        second-with-a-name-that-is-  running     600/2,000  2.5000      8  2 h 6 min ago
        too-long-for-a-narrow-termi
        nal-or-so
        first: /runs/first/plan.json: format is 2, this Longhaul reads 1
        """)


def test_a_list_of_nothing_says_where_it_has_looked(tmp_path: Path, clock: FakeClock) -> None:
    assert show(tmp_path, clock, None) == "no runs in /runs\n"


def test_runs_of_several_folders_are_told_apart(tmp_path: Path, clock: FakeClock) -> None:
    for folder in ("a", "b"):
        WrittenRun(tmp_path / folder / "demo", clock)
    file = io.StringIO()
    show_list(
        Here([tmp_path / "a", tmp_path / "b"], clock), as_json=False, screen=Screen(Console(file=file, width=200))
    )
    assert [line.split()[-1] for line in file.getvalue().splitlines()[1:]] == [
        str(tmp_path / "a" / "demo"),
        str(tmp_path / "b" / "demo"),
    ]


def test_a_long_path_stays_in_one_piece(tmp_path: Path, clock: FakeClock) -> None:
    root = tmp_path / ("long" * 20)
    run = WrittenRun(root / "demo", clock)
    file = io.StringIO()
    show_status(Here([root], clock), "demo", watch=False, as_json=False, screen=Screen(Console(file=file, width=80)))
    assert f"directory   {run.run_dir.path}\n" in file.getvalue()
    assert f"longhaul stop demo --root {root}\n" in file.getvalue()
