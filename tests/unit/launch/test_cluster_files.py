"""What lies in cluster/ and configs/cluster/: it can be read, it fits together, and its commands are ours."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
import typer
import yaml
from packaging.requirements import Requirement

from launch.cli import app
from launch.planning import describe_cached, memory_of_a_rank, plan_worlds, planned_vocab
from orchestrator.config.load import load_config
from orchestrator.config.resolve import Facts

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
OVERLAYS = ROOT / "configs" / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
SCRIPT = CLUSTER / "slurm" / "longhaul.sbatch"
DOCUMENTS = [ROOT / "docs" / f"{name}.md" for name in ("scaling", "slurm", "kubernetes")]
FACTS = Facts(device="cuda", cpus_per_node=96, remote=False, sample_bytes=0, wandb_key=False)


def read_all(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def manifests(kind: str) -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in read_all(path) if document["kind"] == kind]


def cluster_specs() -> list[dict[str, Any]]:
    clusters = [cluster["spec"] for cluster in manifests("RayCluster")]
    return clusters + [job["spec"]["rayClusterSpec"] for job in manifests("RayJob")]


def groups_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def commands_in(text: str) -> list[str]:
    """Commands of ours that stand alone, in a comment or an indented block, with lines joined at backslashes."""
    joined = re.sub(r"\\\n[#\s]*", "", text)
    return re.findall(r"^(?:#)?\s{4,}(longhaul .*)$", joined, re.MULTILINE)


def assert_it_parses(command: str) -> None:
    """With our own command line; and files of this repository that it names are there."""
    words = shlex.split(command, comments=True)
    name, *arguments = words[1:]
    group = typer.main.get_command(app)
    group.commands[name].make_context(name, list(arguments))  # type: ignore[attr-defined]
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), f"{word} in `{command}`"


# ---- overlays ----


@pytest.mark.parametrize("name", ["2x8-h100", "4x8-a100", "8x8-h100"])
def test_the_largest_run_fits_where_its_overlay_says(name: str) -> None:
    config = load_config(ROOT / "configs" / "llama-7b.yaml", [OVERLAYS / f"{name}.yaml"]).config
    nodes = config.cluster.nodes
    rows = plan_worlds(config, FACTS, describe_cached(config, planned_vocab(config)), [nodes.min, nodes.max])
    limit = memory_of_a_rank(config, "cuda")
    assert limit is not None
    assert all(row.memory[config.zero_stage].device_bytes < limit / 2 for row in rows)  # the rest is for activations
    assert all(row.plan.world_size == row.nodes * 8 for row in rows)


def test_overlays_are_named_for_their_largest_world() -> None:
    for path in OVERLAYS.glob("*x*.yaml"):
        nodes, ranks = re.match(r"(\d+)x(\d+)-", path.name).groups()  # type: ignore[union-attr]
        cluster = load_config(ROOT / "configs" / "tiny.yaml", [path]).config.cluster
        assert (cluster.nodes.max, cluster.ranks_per_node) == (int(nodes), int(ranks)), path.name


# ---- KubeRay; the schemas of its own were looked at by hand, see docs/kubernetes.md ----


def test_there_are_a_cluster_and_jobs() -> None:
    assert (len(manifests("RayCluster")), len(manifests("RayJob"))) == (1, 2)
    assert {document["apiVersion"] for document in manifests("RayCluster") + manifests("RayJob")} == {"ray.io/v1"}


def test_jobs_give_a_command_of_ours_that_can_be_repeated() -> None:
    for job in manifests("RayJob"):
        entrypoint = job["spec"]["entrypoint"]
        words = shlex.split(entrypoint)
        assert words[:2] == ["longhaul", "run"]
        assert {"--or-resume", "cluster.address=auto", "cluster.shared=/mnt/longhaul"} <= set(words)
        assert_it_parses(entrypoint.replace("/home/ray/longhaul/", ""))
        assert job["spec"]["backoffLimit"] > 0
        assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_pods_share_one_volume_and_the_head_never_trains() -> None:
    claims = {claim["metadata"]["name"] for claim in manifests("PersistentVolumeClaim")}
    for spec in cluster_specs():
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in groups_of(spec):
            pod = group["template"]["spec"]
            [container] = pod["containers"]
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            places = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            assert places["/mnt/longhaul"]["persistentVolumeClaim"]["claimName"] in claims
            assert places.get("/dev/shm", {"emptyDir": {"medium": "Memory"}})["emptyDir"]["medium"] == "Memory"
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_cluster_and_job_have_the_same_pods() -> None:
    [cluster] = manifests("RayCluster")
    job = next(job for job in manifests("RayJob") if job["metadata"]["name"] == "llama-7b")
    mine, its = groups_of(cluster["spec"]), groups_of(job["spec"]["rayClusterSpec"])
    assert [group["template"] for group in mine] == [group["template"] for group in its]


def test_workers_that_go_say_so_in_time_and_stay_until_the_run_has_left_them() -> None:
    for spec in cluster_specs():
        for group in spec["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            [container] = pod["containers"]
            if "terminationGracePeriodSeconds" not in pod:
                continue  # the small job, for trying things out
            drain, wait = container["lifecycle"]["preStop"]["exec"]["command"][-1].splitlines()
            assert_it_parses(drain)
            [grace] = re.findall(r"^longhaul drain --grace (\d+)$", drain)
            assert int(grace) < pod["terminationGracePeriodSeconds"]
            assert wait.startswith("while pgrep -f ^ray::NodeActor")


def test_the_small_job_has_the_nodes_that_its_overlay_asks_for() -> None:
    job = next(job for job in manifests("RayJob") if job["metadata"]["name"] == "tiny")
    cluster = load_config(ROOT / "configs" / "tiny.yaml", [OVERLAYS / "4x1-cpu.yaml"]).config.cluster
    [group] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == cluster.nodes.min


# ---- Ray's cluster launcher ----


def test_the_launcher_file_is_one_for_this_ray() -> None:
    config = yaml.safe_load((CLUSTER / "autoscaler" / "aws.yaml").read_text())
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    assert set(config) <= set(schema["properties"])
    assert set(schema["required"]) <= set(config)
    assert set(config["docker"]) <= set(schema["properties"]["docker"]["properties"])
    node = schema["properties"]["available_node_types"]["patternProperties"][".*"]
    for kind in config["available_node_types"].values():
        assert set(node["required"]) <= set(kind) <= set(node["properties"])
    assert config["head_node_type"] in config["available_node_types"]
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0


# ---- image ----


def test_the_image_has_a_ray_that_longhaul_works_with() -> None:
    text = (CLUSTER / "docker" / "Dockerfile").read_text()
    wanted = next(r for r in map(Requirement, project()["dependencies"]) if r.name == "ray")
    [version] = {*re.findall(r"rayproject/ray:([\d.]+)", text), *(spec["rayVersion"] for spec in cluster_specs())}
    assert wanted.specifier.contains(version)


def test_the_image_holds_what_the_package_is_made_of() -> None:
    text = (CLUSTER / "docker" / "Dockerfile").read_text()
    copied = {word.rstrip("/") for line in re.findall(r"^COPY .*$", text, re.MULTILINE) for word in line.split()[2:-1]}
    let_in = (CLUSTER / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in let_in if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", "orchestrator", "launch", *project()["license-files"]} <= copied


def project() -> dict[str, Any]:
    section: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return section


# ---- commands ----


def test_the_batch_script_can_be_read_by_bash() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_batch_options_come_before_any_command() -> None:
    """Slurm does not read them after the first command."""
    before, _, after = SCRIPT.read_text().partition("\nset ")
    assert before.count("\n#SBATCH ") == 7
    assert "#SBATCH" not in after


@pytest.mark.parametrize("path", [*DOCUMENTS, *CLUSTER.glob("*/*.yaml")], ids=lambda path: path.name)
def test_commands_told_to_people_parse(path: Path) -> None:
    for command in commands_in(path.read_text()):
        assert_it_parses(command)


def test_documents_tell_commands() -> None:
    assert all(len(commands_in(path.read_text())) >= 2 for path in DOCUMENTS)
