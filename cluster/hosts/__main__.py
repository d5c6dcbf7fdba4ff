"""`python -m cluster.hosts`: a cluster of hosts in one terminal, and commands to use and break it from another."""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.hosts.cluster import Cluster
from cluster.hosts.host import Host
from orchestrator.core.errors import LonghaulError

HELP = "A cluster of hosts on this machine."
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=HELP,
)
Name = Annotated[str, typer.Argument(help="h1, h2, ...", metavar="HOST")]
Command = Annotated[list[str], typer.Argument(metavar="-- CMD...")]
Which = Annotated[str | None, typer.Option("--cluster", help="its name, where several run", show_default=False)]

USE = """
Leave this open; Ctrl-C removes all of it. In another terminal, as root:

  python -m cluster.hosts status           what is up, and what is done to it
  python -m cluster.hosts exec h2 -- CMD   run a command in a host
  python -m cluster.hosts kill h3          a power cut; `boot h3` ends it
  python -m cluster.hosts cut h2           take its link down; `mend h2`
  python -m cluster.hosts rate h2 20mbit   slow its link down; `rate h2 none`
  python -m cluster.hosts freeze h2        stop its processes; `thaw h2`
"""


@app.command()
def up(
    hosts: Annotated[int, typer.Argument(help="how many")] = 4,
    shared: Annotated[Path, typer.Option(help="a folder for runs, seen by all at the same path")] = Path("runs"),
    visible: Annotated[list[Path] | None, typer.Option(help="more folders below /tmp that all shall see")] = None,
    ray: Annotated[bool, typer.Option(help="start Ray on each host")] = True,
    cpus: Annotated[int, typer.Option(help="that Ray may use on each host")] = 2,
) -> None:
    """Bring up hosts, and keep them until Ctrl-C."""
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Cluster.start(hosts, shared=shared, visible=visible or []) as cluster:
            if ray:
                with console.status("Ray is starting"):
                    cluster.start_ray(cpus)
            show(cluster, console)
            show_ray(cluster, console)
            console.print(USE, markup=False, highlight=False)
            signal.pause()
    except KeyboardInterrupt:
        console.print("All hosts are gone.")


@app.command()
def status(cluster: Which = None) -> None:
    """The hosts, and what has been done to them."""
    found, console = Cluster.find(cluster), Console()
    show(found, console)
    show_ray(found, console)


@app.command("exec")
def execute(host: Name, command: Command, cluster: Which = None) -> None:
    """Run a command in a host, in this terminal."""
    process = find_host(host, cluster).start(command, cwd=Path.cwd(), stdin=None, new_session=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command hears it too, and it decides
    code = process.wait()
    raise typer.Exit(code if code >= 0 else 128 - code)


@app.command()
def kill(host: Name, cluster: Which = None) -> None:
    """A power cut: its processes, /tmp and /dev/shm are gone."""
    find_host(host, cluster).kill()


@app.command()
def boot(
    host: Name, cluster: Which = None, cpus: Annotated[int, typer.Option(help="that Ray may use on it")] = 2
) -> None:
    """Bring up a killed host; with Ray, if the cluster has it."""
    found = Cluster.find(cluster)
    found.host(host).boot()
    if found.environment:
        found.host(host).start_ray(cpus)


@app.command()
def cut(host: Name, cluster: Which = None) -> None:
    """Take its link down."""
    find_host(host, cluster).cut()


@app.command()
def mend(host: Name, cluster: Which = None) -> None:
    """Put its link back."""
    find_host(host, cluster).mend()


@app.command()
def rate(host: Name, limit: Annotated[str, typer.Argument(help="`20mbit`, or `none`")], cluster: Which = None) -> None:
    """Limit its link in each direction."""
    find_host(host, cluster).limit_rate(None if limit == "none" else limit)


@app.command()
def freeze(host: Name, cluster: Which = None) -> None:
    """Stop all its processes."""
    find_host(host, cluster).freeze()


@app.command()
def thaw(host: Name, cluster: Which = None) -> None:
    """Let its processes go on."""
    find_host(host, cluster).thaw()


def find_host(name: str, cluster: str | None) -> Host:
    return Cluster.find(cluster).host(name)


def show(cluster: Cluster, console: Console) -> None:
    table = Table("host", "address", "state", box=None, pad_edge=False)
    for host in cluster.hosts:
        table.add_row(host.name, host.address, host.state())
    console.print(f"cluster {cluster.name}, shared folder {cluster.shared}", markup=False, highlight=False)
    console.print(table, highlight=False)


def show_ray(cluster: Cluster, console: Console) -> None:
    """In a form that can be pasted into a shell."""
    if environment := cluster.environment:
        words = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
        lines = f"\nRay {cluster.ray_address}, dashboard {cluster.dashboard}\nexport {words}"
        console.print(lines, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    try:
        app()
    except LonghaulError as problem:
        typer.echo(f"longhaul: {problem}", err=True)
        sys.exit(problem.exit_code)


if __name__ == "__main__":
    main()
