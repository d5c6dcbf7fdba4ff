"""A whole run that keeps its checkpoints in a store, stops, and finds the newest of them damaged when it goes on."""

import json
import signal

import pytest
import yaml

from tests.fakes.s3_server import S3Server
from tests.integration.conftest import STEPS, Bench
from tests.integration.test_resume import wait_for_step

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(900)]
RUN = "kept-in-store"


def test_a_run_goes_on_from_the_newest_sound_checkpoint_of_a_store(bench: Bench, unbroken: str) -> None:
    with S3Server() as server:
        overlay = bench.folder / "kept.yaml"
        sections = {"checkpoint": {"store": server.url("kept")}, "data": {"store": {"options": server.options}}}
        overlay.write_text(yaml.safe_dump(sections))
        command = bench.start("run", str(bench.config), "-o", str(overlay), f"name={RUN}")
        wait_for_step(bench, RUN, 8)
        command.send_signal(signal.SIGINT)
        assert command.wait(timeout=90) == 130
        [stopped] = bench.events(RUN, "stopped")
        assert not (bench.path(RUN) / "checkpoints").exists()

        newest = f"step-{stopped['step']:08d}-g0001"
        key = f"kept/{RUN}/{newest}/rank-00001.safetensors"
        whole = server.objects[key]
        server.objects[key] = whole[:-1] + bytes([whole[-1] ^ 1])
        assert bench.longhaul("checkpoint", "verify", RUN, "--checkpoint", "last").returncode == 4
        listed = json.loads(bench.longhaul("checkpoint", "list", RUN, "--json").stdout)["checkpoints"]
        assert listed[-1]["name"] == newest

        resumed = bench.longhaul("resume", RUN)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert "CheckpointDamaged" in bench.events(RUN, "fault")[0]["reason"]
        assert key in bench.events(RUN, "checkpoint_damaged")[0]["reason"]
        begun = [event["checkpoint"] for event in bench.events(RUN, "started")]
        assert begun[:2] == [None, newest]
        assert begun[2] == f"step-{(stopped['step'] - 1) // 5 * 5:08d}-g0001"
        assert bench.events(RUN, "done")
        assert len(bench.losses(RUN)) == STEPS
        assert bench.losses(RUN) == bench.losses(unbroken)
        assert bench.ledger(RUN) == bench.ledger(unbroken)
        proof = bench.longhaul("verify", RUN)
        assert proof.returncode == 0, proof.stderr
