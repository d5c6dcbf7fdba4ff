"""One of the runs of `longhaul chaos`, as a command of its own: on this machine, or inside of a host.

`python -m launch.chaos.trial FOLDER`: the folder holds its config, and what the run directory is to begin with."""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from launch.loading import load_checked
from launch.run import Copy, train_copy
from launch.screen import Screen
from orchestrator.config.run import RunConfig
from orchestrator.config.show import dump_yaml
from orchestrator.core.drill import Drill
from orchestrator.core.errors import LonghaulError
from orchestrator.core.words import ExitCode
from orchestrator.storage.lines import LineFile
from orchestrator.storage.publish import publish_json
from orchestrator.tracking.rundir import RunDir

_OWN = ("drill.json", "skips.jsonl")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A run, what it does to itself, and the steps that it leaves out from the beginning."""

    config: RunConfig
    drill: Drill = field(default_factory=Drill)
    voided: tuple[int, ...] = ()

    @property
    def run_dir(self) -> RunDir:
        return RunDir(Path(self.config.root) / self.config.name)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump_yaml(self.config))
        publish_json(folder / "drill.json", self.drill.to_json())
        if self.voided:
            with LineFile(folder / "skips.jsonl", head={"format": 1}) as file:
                file.append([{"step": step, "voided": True} for step in self.voided])


def command_of(folder: Path) -> list[str]:
    return [sys.executable, "-m", "launch.chaos.trial", str(folder)]


def train(folder: Path) -> ExitCode:
    config = load_checked(folder / "config.yaml", [], [])

    def fill(run: Path) -> None:
        for name in _OWN:
            if (folder / name).exists():
                shutil.copy(folder / name, run / name)

    return train_copy(config, Copy(None, fill), RunDir(Path(config.root) / config.name), Screen())


if __name__ == "__main__":
    try:
        sys.exit(train(Path(sys.argv[1])))
    except LonghaulError as error:
        print(f"longhaul: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
