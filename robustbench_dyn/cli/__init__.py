"""The command dynbench: the only package that prints, exits and reads arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli import (
    checking,
    comparing,
    evaluating,
    failures,
    listing,
    models,
    plotting,
    plotting_tables,
    publishing,
    scaffolding,
    storing,
    tables,
    verifying,
)
from robustbench_dyn.cli.output import print_result, reserve_stdout, reserving_stdout

# OpenMP threads poll this often for work before they sleep (300,000 times by default). On a busy
# machine, polling takes time from the threads that do the work.
_SPIN_COUNT = 5_000

app = typer.Typer(
    help="Bracket the robustness of neural networks between attacks and certificates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
store = typer.Typer(help="Check and merge the files of the verdicts.", no_args_is_help=True)
plot = typer.Typer(help="Draw flows, curves, radii, examples and tables.", no_args_is_help=True)


def main() -> NoReturn:
    """Run the command; the exit codes are those of `failures`, and 0."""
    reserve_stdout()
    # OpenMP reads this when torch is loaded, which happens later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPIN_COUNT))
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; return the exit code."""
    # Without typer's own ends of a command, which hide Ctrl-C and trust any SystemExit.
    try:
        command = typer.main.get_command(app)
        with command.make_context("dynbench", [*arguments]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except BaseException as error:
        return failures.end(error)
    return 0


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print_result(__version__)
        raise typer.Exit


app.command()(reserving_stdout(evaluating.run))
app.command()(reserving_stdout(evaluating.smooth))
app.command()(reserving_stdout(evaluating.curve))
app.command("list")(reserving_stdout(listing.list_))
app.command()(reserving_stdout(models.show))
app.command()(reserving_stdout(checking.check))
app.command()(reserving_stdout(scaffolding.new))
app.command()(reserving_stdout(models.train))
app.command("sweep")(reserving_stdout(tables.sweep_))
app.command()(reserving_stdout(publishing.leaderboard))
app.command()(reserving_stdout(verifying.verify))
app.command("export")(reserving_stdout(tables.export_))
app.command()(reserving_stdout(comparing.compare))
app.add_typer(store, name="store")
store.command("check")(reserving_stdout(storing.check_store))
store.command("merge")(reserving_stdout(storing.merge))
app.add_typer(plot, name="plot")
plot.command("flow")(reserving_stdout(plotting.plot_flow_))
plot.command("curves")(reserving_stdout(plotting.plot_curves_))
plot.command("radii")(reserving_stdout(plotting.plot_radii_))
plot.command("examples")(reserving_stdout(plotting.plot_examples_))
plot.command("leaderboard")(reserving_stdout(plotting_tables.plot_leaderboard_))
