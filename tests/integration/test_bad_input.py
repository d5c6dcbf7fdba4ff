"""Bad input: exit code 2, one clear message, no traceback, nothing that a later command would trust."""

import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import Bench, small_config

pytestmark = pytest.mark.cluster  # each starts the command, some a Ray


def refused(bench: Bench, *arguments: str, code: int = 2) -> str:
    """The message of a command that must be refused."""
    before = sorted(path.name for path in (bench.folder / "runs").glob("*"))
    done = bench.longhaul(*arguments, timeout_s=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (bench.folder / "runs").glob("*")) == before
    return " ".join(done.stderr.split())


def test_missing_data_names_path_and_key(bench: Bench) -> None:
    message = refused(bench, "run", str(bench.config), "name=x", "data.train.0.path=nowhere")
    assert "nowhere" in message
    assert "data.train" in message


@pytest.mark.cluster  # in the same way as a shard that is no tar
def test_an_empty_dataset_is_refused(bench: Bench) -> None:
    (bench.folder / "empty").mkdir(exist_ok=True)
    assert "empty" in refused(bench, "run", str(bench.config), "name=x", "data.train.0.path=empty")


def test_a_shard_that_is_no_tar_is_named(bench: Bench) -> None:
    folder = bench.folder / "garbage"
    folder.mkdir(exist_ok=True)
    (folder / "a.tar").write_bytes(b"this is no tar at all" * 100)
    assert "a.tar" in refused(bench, "run", str(bench.config), "name=x", "data.train.0.path=garbage")


def test_a_config_with_three_mistakes_lists_three(bench: Bench) -> None:
    broken = small_config()
    broken["train"]["step"] = broken["train"].pop("steps")
    broken["optim"]["lr"] = "fast"
    broken["cluster"]["ranks_per_node"] = 0
    path = bench.folder / "broken.yaml"
    path.write_text(yaml.safe_dump(broken))
    message = refused(bench, "run", str(path))
    for part in ("train.step", "steps", "optim.lr", "cluster.ranks_per_node", "broken.yaml:"):
        assert part in message


def test_a_model_that_cannot_be_built_is_refused(bench: Bench) -> None:
    """By `plan`, which needs no Ray; `run` plans in the same way, as the next test shows."""
    message = refused(bench, "plan", str(bench.config), "model.transformers.num_attention_heads=5")
    assert "model.transformers" in message


def test_a_plan_that_does_not_fit_has_exit_code_3(bench: Bench, unbroken: str) -> None:
    message = refused(bench, "run", str(bench.config), "name=x", "cluster.device_memory_gb=0.0001", code=3)
    assert "ZeRO" in message


def test_an_existing_run_directory_is_refused_with_the_way_out(bench: Bench, unbroken: str) -> None:
    assert f"longhaul resume {unbroken}" in refused(bench, "run", str(bench.config), f"name={unbroken}")


def test_an_unreachable_ray_is_refused(bench: Bench) -> None:
    message = refused(bench, "run", str(bench.config), "name=x", "cluster.address=127.0.0.1:9")
    assert "cluster.address=127.0.0.1:9" in message


def test_a_root_that_is_no_folder_is_refused(bench: Bench) -> None:
    (bench.folder / "file").write_text("")
    assert "root" in refused(bench, "run", str(bench.config), "name=x", "root=file/runs")


def test_resume_names_runs_when_there_is_no_such(bench: Bench, unbroken: str) -> None:
    assert unbroken in refused(bench, "resume", "nobody")


def stopped_copy(bench: Bench, unbroken: str, name: str) -> Path:
    """A run that looks as if everything had been killed after its last checkpoint but one."""
    path = bench.path(name)
    shutil.copytree(bench.path(unbroken), path)
    journal = path / "events" / "g0001.jsonl"
    journal.write_text("".join(line for line in journal.read_text().splitlines(True) if '"done"' not in line))
    return path


def test_resume_with_another_identity_key_is_refused(bench: Bench, unbroken: str) -> None:
    path = stopped_copy(bench, unbroken, "identity")
    message = refused(bench, "resume", "identity", "optim.lr=0.5", "cluster.ranks_per_node=1")
    assert "optim.lr" in message
    assert "ranks_per_node" not in message
    shutil.rmtree(path)


def test_resume_with_another_dataset_is_refused(bench: Bench, unbroken: str) -> None:
    path = stopped_copy(bench, unbroken, "dataset")
    other = bench.folder / "other"
    shutil.copytree(bench.folder / "shards", other, dirs_exist_ok=True)
    first = sorted(other.glob("*.tar"))[0]
    with tarfile.open(first) as tar:
        members = tar.getnames()
    rewrite_without(first, members[0])
    message = refused(bench, "resume", "dataset", "data.train.0.path=other")
    assert "shards/" in message or "segment" in message
    shutil.rmtree(path)


def rewrite_without(shard: Path, name: str) -> None:
    with tarfile.open(shard) as tar:
        kept = [(member, tar.extractfile(member)) for member in tar if member.name != name]
        copy = shard.with_suffix(".new")
        with tarfile.open(copy, "w") as out:
            for member, file in kept:
                out.addfile(member, file)
    copy.rename(shard)


@pytest.mark.parametrize("arguments", [("verify", "nobody"), ("ledger", "nobody"), ("plan", "missing.yaml")])
def test_commands_on_what_is_not_there_are_refused(bench: Bench, arguments: tuple[str, ...]) -> None:
    refused(bench, *arguments)
