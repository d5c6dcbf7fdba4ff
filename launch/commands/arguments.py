"""What several commands take: the same words, meanings and help everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(help="a YAML config")]
Sets = Annotated[list[str] | None, typer.Argument(help="overrides: a.b=c", metavar="[A.B=C]...")]
MoreSets = Annotated[list[str] | None, typer.Option("--set", help="an override, as a.b=c is; repeatable")]
Overlays = Annotated[list[Path] | None, typer.Option("-o", "--overlay", help="a YAML file laid over the config")]

RUNS = Path("runs")
Run = Annotated[str, typer.Argument(help="a run's name or directory")]
Root = Annotated[Path, typer.Option(help="folder of run directories")]
Roots = Annotated[list[Path] | None, typer.Option("--root", help="folder of run directories")]
_DASHBOARD = "the Ray dashboard of a cluster, for example http://10.0.0.1:8265"
Address = Annotated[str | None, typer.Option(help=_DASHBOARD, envvar="LONGHAUL_ADDRESS")]
AddressNeeded = Annotated[str, typer.Option(help=_DASHBOARD, envvar="LONGHAUL_ADDRESS", show_default=False)]
OrResume = Annotated[bool, typer.Option("--or-resume", help="go on with the run if it has begun")]
Code = Annotated[Path, typer.Option(help="folder of your code, sent along", show_default="this one")]
NoCode = Annotated[bool, typer.Option("--no-code", help="send no code but Longhaul's")]
NotSecret = Annotated[list[str] | None, typer.Option(help="a file that only looks like a secret; repeatable")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]


def given(sets: list[str] | None, more_sets: list[str] | None) -> list[str]:
    """Overrides, in either way of giving them."""
    return [*(sets or []), *(more_sets or [])]
