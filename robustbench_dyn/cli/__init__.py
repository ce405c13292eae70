"""The command dynbench: the only package that prints, exits and reads arguments."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli import evaluating, models, plotting, tables
from robustbench_dyn.cli.options import complain
from robustbench_dyn.errors import DynbenchError, SoundnessError

_STDOUT = 1
# How often a thread that waits looks before it sleeps; without it, 300,000 times. Where other
# programs need the cores, each look takes from those who are waited for.
_LOOKS = 5_000

app = typer.Typer(
    help="Bracket the robustness of neural networks between attacks and certificates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
plot = typer.Typer(help="Draw flows and brackets.", no_args_is_help=True)


def main() -> None:
    """Run the command; exit 1 for a refuted certificate, 2 for what the user gave wrong."""
    _keep_stdout_for_answers()
    # Read when torch is loaded, which is later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_LOOKS))
    try:
        app(standalone_mode=True)
    except SoundnessError as error:
        complain(f"soundness violation: {error}")
        sys.exit(1)
    except DynbenchError as error:
        complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        complain("interrupted; what was computed is kept, the same command goes on from there")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has left, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _keep_stdout_for_answers() -> None:
    """Send to stderr what compiled code prints, as HiGHS does now and then; ours goes to stdout."""
    try:
        if sys.stdout.fileno() != _STDOUT:
            return
        kept = os.dup(_STDOUT)
        os.dup2(sys.stderr.fileno(), _STDOUT)
    except (AttributeError, OSError):
        # One of the two is closed, or stands for no file.
        return
    sys.stdout = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.command()(evaluating.run)
app.command()(evaluating.smooth)
app.command()(evaluating.curve)
app.command("list")(models.list_)
app.command()(models.show)
app.command()(models.check)
app.command()(models.train)
app.command("sweep")(tables.sweep_)
app.command()(tables.leaderboard)
app.command("export")(tables.export_)
app.add_typer(plot, name="plot")
plot.command("flow")(plotting.plot_flow_)
plot.command("curves")(plotting.plot_curves_)
