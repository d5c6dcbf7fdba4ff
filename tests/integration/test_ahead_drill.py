"""Training while data is prepared: the same ledger as after it, whatever happens to those who prepare."""

import io
import os
import random
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.load import load_config
from orchestrator.data.shards.source import Dataset
from orchestrator.storage.publish import read_json
from tests.integration.conftest import WORDS, Bench, family_of, set_up, small_config

pytestmark = pytest.mark.cluster
SHARDS, DOCUMENTS, STEPS = 6, 25, 40  # segments of 1, 2 and 3 shards, in which about 37 steps lie
PATIENCE_S = 180.0
REPOSITORY = Path(__file__).parents[2]


def write_shard(path: Path, shard: int) -> None:
    rng = random.Random(shard)
    with tarfile.open(path, "w") as tar:
        for document in range(DOCUMENTS):
            text = " ".join(rng.choices(WORDS, k=rng.randrange(40, 160)))
            for suffix, data in (("json", f'{{"shard": {shard}}}'), ("txt", text)):
                info = tarfile.TarInfo(f"{shard:03d}-{document:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data.encode()))


def ahead_config(free: list[int], gate: Path) -> dict[str, Any]:
    config = small_config()
    config["data"] |= {"segment_shards": 1, "ledger": "digest", "split": {"validation": 0.2}}
    step = {"name": "tests.fakes.gated_steps:hold", "args": {"free": free, "gate": str(gate)}}
    config["prepare"] |= {"mode": "ahead", "clean": [step]}
    config["train"] |= {"steps": STEPS, "global_batch": 16}
    return config | {"evaluate": {"every_steps": 20}, "checkpoint": {"every_steps": 1000}}


class AheadBench(Bench):
    """`by_segment`: numbers of the shards of each segment."""

    by_segment: list[list[int]]

    @property
    def gate(self) -> Path:
        return self.folder / "gate"

    def shard(self, number: int) -> Path:
        return self.folder / "shards" / f"{number}.tar"

    def wait_for(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := what()):
            assert time.monotonic() < deadline, {log.name: log.read_text() for log in self.folder.glob("*.log")}
            time.sleep(0.1)
        return found

    def wait_until_ranks_wait(self, run: str) -> int:
        """Until all that is prepared is fed: the step that is done then but for knowing what comes next."""

        def waiting() -> int:
            if not (self.path(run) / "now.json").exists():
                return 0
            processes = read_json(self.path(run) / "now.json")["ranks"]
            ranks = [one for one in processes if one["rank"] is not None]  # others stand by
            return min((rank["step"] for rank in ranks), default=0) if all(r["phase"] == "data" for r in ranks) else 0

        seen = self.wait_for(waiting)
        time.sleep(1.5)  # now.json is written once a second
        return seen if waiting() == seen else self.wait_until_ranks_wait(run)


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AheadBench]:
    folder = tmp_path_factory.mktemp("ahead")
    (folder / "shards").mkdir()
    for shard in range(SHARDS):
        write_shard(folder / "shards" / f"{shard}.tar", shard)
    with pytest.MonkeyPatch.context() as patch, set_up(folder, ahead_config([], folder / "gate")) as found:
        patch.setenv("PYTHONPATH", str(REPOSITORY))  # where the command and its Ray find the step of tests/fakes
        bench = AheadBench(found.folder, found.config)
        data = load_config(bench.config).config.data
        data = data.model_copy(update={"train": [data.train[0].model_copy(update={"path": str(folder / "shards")})]})
        listed = Dataset.list(data)
        names = [[int(Path(listed.shards[n].name).stem) for n in segment.ordinals] for segment in listed.segments]
        assert [len(segment) for segment in names] == [1, 2, 3]
        bench.by_segment = names
        bench.config.write_text(yaml.safe_dump(ahead_config(names[0], bench.gate)))
        yield bench


@pytest.fixture(scope="module")
def straight(ahead: AheadBench) -> str:
    """Everything prepared before the first step."""
    ahead.gate.touch()
    done = ahead.run("first", "prepare.mode=first", "data.work=work-first")
    assert done.returncode == 0, done.stdout + done.stderr
    return "first"


def expected_segments(bench: Bench, run: str) -> tuple[int, int]:
    manifest = read_json(bench.path(run) / "manifest.json")
    return len(manifest["segments"]), manifest["expected"]


def test_ahead_feeds_and_learns_what_first_does(ahead: AheadBench, straight: str) -> None:
    done = ahead.run("ahead", "data.work=work-ahead")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 3 segments are prepared, the others will be while ranks train" in done.stdout
    assert ahead.ledger("ahead") == ahead.ledger(straight)
    assert len(ahead.ledger("ahead")) == STEPS
    assert ahead.losses("ahead") == ahead.losses(straight)
    assert expected_segments(ahead, "ahead") == expected_segments(ahead, straight) == (3, 3)
    assert len(ahead.events("ahead", "prepared")) == 1
    proof = ahead.longhaul("verify", "ahead", "--against", straight)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert "epoch 0 of shards" in proof.stdout


def test_training_waits_for_slow_preparing_though_preparer_controller_and_command_are_killed(
    ahead: AheadBench, straight: str
) -> None:
    ahead.gate.unlink()
    command = ahead.start("run", str(ahead.config), "data.work=work-slow", "name=slow")
    waits_at = ahead.wait_until_ranks_wait("slow")
    began = time.monotonic()
    assert 0 < waits_at < STEPS
    assert expected_segments(ahead, "slow") == (1, 3)
    [preparing] = ahead.events("slow", "preparing")
    os.kill(preparing["pid"], signal.SIGKILL)
    ahead.wait_for(lambda: len(ahead.events("slow", "preparing")) == 2)
    assert ahead.events("slow", "preparing")[1]["pid"] != preparing["pid"]
    command.kill()
    command.wait()
    [claimed] = ahead.events("slow", "claimed")
    os.kill(claimed["pid"], signal.SIGKILL)
    ahead.wait_for(lambda: ahead.events("slow", "adopted") and len(ahead.events("slow", "preparing")) == 3)
    assert ahead.events("slow", "preparing")[2]["pid"] == ahead.events("slow", "preparing")[1]["pid"]
    waited = time.monotonic() - began
    ahead.gate.touch()
    ahead.wait_for(lambda: ahead.events("slow", "done") and not family_of(ahead.folder))
    assert ahead.ledger("slow") == ahead.ledger(straight)
    assert ahead.losses("slow") == ahead.losses(straight)
    assert max(row["data_wait_s"] for row in ahead.rows("slow").values()) > waited
    assert not ahead.events("slow", "fault")


def test_what_cannot_be_prepared_stops_training_too_and_can_be_repaired(ahead: AheadBench, straight: str) -> None:
    broken = ahead.shard(ahead.by_segment[2][0])
    whole = broken.read_bytes()
    broken.write_bytes(whole[:3000])
    ahead.gate.unlink()
    command = ahead.start("run", str(ahead.config), "data.work=work-broken", "name=broken")
    waits_at = ahead.wait_until_ranks_wait("broken")
    ahead.gate.touch()
    assert command.wait(PATIENCE_S) == 2
    [failed] = ahead.events("broken", "failed")
    assert broken.name in failed["reason"]
    assert failed["reason"].startswith("preparing ahead failed at segment")
    assert failed["step"] >= waits_at
    [checkpoint] = ahead.events("broken", "checkpoint")
    assert checkpoint["step"] == failed["step"]
    broken.write_bytes(whole)
    done = ahead.longhaul("resume", "broken")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ahead.ledger("broken") == ahead.ledger(straight)
    assert ahead.losses("broken") == ahead.losses(straight)


def test_a_stop_while_training_waits_is_heard_and_a_resume_goes_on_preparing(ahead: AheadBench, straight: str) -> None:
    ahead.gate.unlink()
    command = ahead.start("run", str(ahead.config), "data.work=work-stopped", "name=stopped")
    waits_at = ahead.wait_until_ranks_wait("stopped")
    asked = ahead.longhaul("stop", "stopped")
    assert asked.returncode == 0, asked.stderr
    assert command.wait(PATIENCE_S) == 130
    [stopped] = ahead.events("stopped", "stopped")
    assert stopped["step"] == waits_at + 1
    assert expected_segments(ahead, "stopped") == (1, 3)
    ahead.gate.touch()
    done = ahead.longhaul("resume", "stopped")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ahead.ledger("stopped") == ahead.ledger(straight)
