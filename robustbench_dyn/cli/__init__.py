"""The command dynbench: the only package that prints, exits and reads arguments."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli import (
    checking,
    evaluating,
    listing,
    models,
    plotting,
    scaffolding,
    storing,
    tables,
)
from robustbench_dyn.cli.options import print_error
from robustbench_dyn.errors import DynbenchError, SoundnessError

_STDOUT = 1
# OpenMP threads poll this often for work before they sleep (300,000 times by default). On a busy
# machine, polling takes time from the threads that do the work.
_SPIN_COUNT = 5_000

app = typer.Typer(
    help="Bracket the robustness of neural networks between attacks and certificates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
store = typer.Typer(help="Check the file of the verdicts.", no_args_is_help=True)
plot = typer.Typer(help="Draw flows and brackets.", no_args_is_help=True)


def main() -> None:
    """Run the command; exit 1 where a certificate is refuted, 2 for invalid input."""
    _reserve_stdout()
    # OpenMP reads this when torch is loaded, which happens later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPIN_COUNT))
    try:
        app(standalone_mode=True)
    except SoundnessError as error:
        print_error(f"soundness violation: {error}")
        sys.exit(1)
    except DynbenchError as error:
        print_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        print_error("interrupted; finished work is kept, and the same command resumes it")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of stdout has closed the pipe, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _reserve_stdout() -> None:
    """Redirect to stderr what compiled code prints, as HiGHS does; only dynbench writes stdout."""
    try:
        if sys.stdout.fileno() != _STDOUT:
            return
        stdout = os.dup(_STDOUT)
        os.dup2(sys.stderr.fileno(), _STDOUT)
    except (AttributeError, OSError):
        # One of the two is closed, or is no file.
        return
    sys.stdout = os.fdopen(stdout, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


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
app.command("list")(listing.list_)
app.command()(models.show)
app.command()(checking.check)
app.command()(scaffolding.new)
app.command()(models.train)
app.command("sweep")(tables.sweep_)
app.command()(tables.leaderboard)
app.command("export")(tables.export_)
app.add_typer(store, name="store")
store.command("check")(storing.check_store)
app.add_typer(plot, name="plot")
plot.command("flow")(plotting.plot_flow_)
plot.command("curves")(plotting.plot_curves_)
