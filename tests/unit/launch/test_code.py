"""What goes along with a job, and what never does."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from launch.remote import code as shipping
from launch.remote.code import own_code, stage
from orchestrator.core.errors import BadInput


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    write(folder / "train.py", "import mylib\n")
    write(folder / "mylib" / "__init__.py")
    return folder


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(code: Path, *left_out: Path) -> list[str]:
    return [str(path) for path in own_code(code, left_out)]


def test_data_runs_environments_and_secrets_stay_at_home(code: Path) -> None:
    write(code / "shards" / "a.tar")
    write(code / "data" / "table.csv")
    write(code / "runs" / "one" / "events" / "g0001.jsonl")
    write(code / "my-env" / "pyvenv.cfg")
    write(code / "my-env" / "lib" / "x.py")
    write(code / ".venv" / "y.py")
    write(code / "mylib" / "__pycache__" / "z.py")
    for secret in (".env", ".env.local", "deploy.pem", "id_rsa", ".netrc", "credentials.json"):
        write(code / secret, "s")
    assert names(code, code / "data") == ["mylib/__init__.py", "train.py"]


def test_in_a_repository_what_git_ignores_stays_at_home(code: Path) -> None:
    write(code / ".gitignore", "scratch/\n")
    write(code / "scratch" / "big.py")
    write(code / "new.py")
    write(code / "env" / "pyvenv.cfg")
    subprocess.run(["git", "init", "-q", str(code)], check=True)
    assert names(code) == [".gitignore", "mylib/__init__.py", "new.py", "train.py"]


def test_a_link_out_of_the_folder_is_not_followed(code: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside.py", "x")
    (code / "link.py").symlink_to(tmp_path / "outside.py")
    assert "link.py" not in names(code)


def test_too_much_is_refused_with_the_largest_files(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "MOST_BYTES", 5 * 2**20)
    write(code / "corpus.txt", "x" * 4 * 2**20)
    write(code / "vocabulary.txt", "x" * 2 * 2**20)
    with pytest.raises(BadInput, match=r"the largest are corpus.txt \(4.0 MiB\), vocabulary.txt \(2.0 MiB\)"):
        stage(tmp_path / "stage", code, ())


@pytest.mark.parametrize(
    "line",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "aws = 'AKIA" + "ABCDEFGHIJKLMNOP'",
        "WANDB_API_KEY=" + "0123456789abcdef" * 2,
        'MY_TOKEN: "' + "a1" * 15 + '"',
        "login('hf_" + "x" * 34 + "')",
    ],
)
def test_a_secret_in_a_file_is_refused_by_place_and_not_repeated(code: Path, tmp_path: Path, line: str) -> None:
    write(code / "mylib" / "keys.py", f"# one\n{line}\n")
    with pytest.raises(BadInput, match=r"looks like a secret: mylib/keys.py:2") as raised:
        stage(tmp_path / "stage", code, ())
    assert line[-12:] not in str(raised.value)
    assert stage(tmp_path / "again", code, (), ["mylib/keys.py"]).work.joinpath("mylib/keys.py").exists()


def test_code_that_only_talks_of_secrets_goes_along(code: Path, tmp_path: Path) -> None:
    write(code / "login.py", 'key = os.environ["WANDB_API_KEY"]\nTOKENIZERS_PARALLELISM=false\nTOKEN = "<eos>"\n')
    assert stage(tmp_path / "stage", code, ()).work.joinpath("login.py").exists()


def test_a_home_folder_is_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadInput, match="--no-code"):
        own_code(tmp_path, ())


def run_there(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With nothing but the shipment, as on a cluster that has no Longhaul."""
    command = [sys.executable, *arguments]
    environment = {"PYTHONPATH": str(folder)}
    return subprocess.run(command, env=environment, cwd=folder.parent, capture_output=True, text=True, check=False)


def test_what_is_staged_is_this_longhaul_with_its_version(tmp_path: Path) -> None:
    shipment = stage(tmp_path / "stage", None, ())
    assert not list(shipment.work.iterdir())
    [folder] = {module.parent for module in shipment.modules}
    look = "import importlib.metadata as m, launch; print(m.version('longhaul'), launch.__file__)"
    said = run_there(folder, "-c", look).stdout.split()
    assert said == [importlib.metadata.version("longhaul"), str(folder / "launch" / "__init__.py")]
    assert "submit" in run_there(folder, "-m", "launch.remote.arrival", "--help").stdout


def test_a_cluster_without_what_longhaul_requires_says_what_is_missing(tmp_path: Path) -> None:
    folder = stage(tmp_path / "stage", None, ()).modules[0].parent
    [metadata] = folder.glob("*.dist-info/METADATA")
    needs = "Requires-Dist: torch<2\nRequires-Dist: nosuchpackage>=3\n"
    metadata.write_text(metadata.read_text().replace("Requires-Dist:", needs + "Requires-Dist:", 1))
    done = run_there(folder, "-m", "launch.remote.arrival", "list")
    assert done.returncode == 2
    assert "nosuchpackage is missing" in done.stderr
    assert "is not <2" in done.stderr
    assert "Traceback" not in done.stderr
