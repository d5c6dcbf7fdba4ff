"""The command line. Each command loads what it needs when it is called, so that `longhaul --help` is quick.

launch/commands/ has the commands; here they come together, and every error ends as an exit code."""

import io
import signal
import sys

import typer

from launch.commands import chaos, checkpoints, configs, data, runs
from orchestrator.core.errors import LonghaulError
from orchestrator.core.words import ExitCode

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train on clusters that break."
)
for commands in (runs.app, chaos.app, data.app, configs.app):
    app.add_typer(commands)
app.add_typer(checkpoints.app, name="checkpoint")
app.add_typer(configs.config_app, name="config")
app.add_typer(runs.track_app, name="track")


def main() -> None:
    """Errors that a person can act on end the command with their exit code, without a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal cannot show must not end the command
    try:
        app()
    except LonghaulError as error:
        print(f"longhaul: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("longhaul: interrupted", file=sys.stderr)
        sys.exit(ExitCode.STOPPED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends anyway, and Python would print a traceback


if __name__ == "__main__":
    main()
