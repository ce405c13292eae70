"""The command dynbench: the only package that prints, exits and reads arguments."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, NoReturn

import typer

from robustbench_dyn import __version__, interruption
from robustbench_dyn.cli import (
    checking,
    comparing,
    completion,
    curves,
    evaluating,
    failures,
    listing,
    models,
    plotting,
    plotting_tables,
    publishing,
    scaffolding,
    settings,
    smoothing,
    storing,
    tables,
    training,
    verifying,
)
from robustbench_dyn.cli.examples import EXAMPLES
from robustbench_dyn.cli.help import HELP
from robustbench_dyn.cli.output import print_result, reserve_stdout, reserving_stdout
from robustbench_dyn.cli.parsing import Command, Group

# OpenMP threads poll this often for work before they sleep (300,000 times by default). On a busy
# machine, polling takes time from the threads that do the work.
_SPIN_COUNT = 5_000
# Panels of the commands in --help.
_EVALUATE, _PUBLISH, _EXTEND = "Evaluate", "Tables and stores", "Models and plugins"
_PICTURES, _USER = "Pictures", "Settings"

app = typer.Typer(
    cls=Group,
    help="Bracket the robustness of neural networks between attacks and certificates.",
    epilog="dynbench run --model lipflow\ndynbench COMMAND --help",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
store = typer.Typer(
    cls=Group, help="Check and merge the files of the verdicts.", no_args_is_help=True
)
plot = typer.Typer(
    cls=Group, help="Draw flows, curves, radii, examples and tables.", no_args_is_help=True
)


@cache
def command() -> typer.core.TyperGroup:
    """Return the command with all below it; to build it from their signatures takes long."""
    return typer.main.get_group(app)


def main() -> NoReturn:
    """Run the command; the exit codes are those of `failures`, and 0."""
    if completion.VARIABLE in os.environ:
        sys.exit(completion.answer(command(), os.environ[completion.VARIABLE]))
    interruption.listen()
    reserve_stdout()
    # OpenMP reads this when torch is loaded, which happens later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPIN_COUNT))
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; return the exit code."""
    # Without typer's own ends of a command, which hide Ctrl-C and trust any SystemExit.
    try:
        dynbench = command()
        with dynbench.make_context("dynbench", [*arguments]) as context:
            dynbench.invoke(context)
        sys.stdout.flush()
    except BaseException as error:
        return failures.end(error)
    return 0


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    versions: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions of dynbench, torch and Python.",
            rich_help_panel=HELP,
        ),
    ] = False,
    install: Annotated[
        bool,
        typer.Option(
            "--install-completion",
            help="Let your shell complete commands, options and names.",
            rich_help_panel=HELP,
        ),
    ] = False,
    show: Annotated[
        bool,
        typer.Option(
            "--show-completion", help="Print the script that does so.", rich_help_panel=HELP
        ),
    ] = False,
) -> None:
    if versions:
        print_result(_versions())
    elif show:
        print_result(completion.script())
    elif install:
        print_result(f"written: {completion.install()}; it counts in shells that start from now on")
    else:
        context.default_map = settings.defaults_of(context.command)
        return
    raise typer.Exit


def _versions() -> str:
    """Return the versions that a report needs; torch is not imported for it."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "not installed"
    system = f"{platform.system()} {platform.machine()}"
    return f"dynbench {__version__}, torch {torch}, Python {platform.python_version()}, {system}"


def _add(path: str, command: Callable[..., None], panel: str | None = None) -> None:
    """Add a command; path: its name, after that of its group."""
    group, _, name = path.rpartition(" ")
    parent = {"": app, "store": store, "plot": plot}[group]
    examples = "\n".join(EXAMPLES.get(path, ()))
    add = parent.command(name, cls=Command, epilog=examples, rich_help_panel=panel)
    add(reserving_stdout(command))


_add("run", evaluating.run, _EVALUATE)
_add("smooth", smoothing.smooth, _EVALUATE)
_add("curve", curves.curve, _EVALUATE)
_add("sweep", tables.sweep_, _EVALUATE)
_add("leaderboard", publishing.leaderboard, _PUBLISH)
_add("verify", verifying.verify, _PUBLISH)
_add("compare", comparing.compare, _PUBLISH)
_add("export", tables.export_, _PUBLISH)
_add("list", listing.list_, _EXTEND)
_add("show", models.show, _EXTEND)
_add("check", checking.check, _EXTEND)
_add("new", scaffolding.new, _EXTEND)
_add("train", training.train, _EXTEND)
_add("settings", settings.settings, _USER)
_add("store check", storing.check_store)
_add("store merge", storing.merge)
_add("plot flow", plotting.plot_flow_)
_add("plot curves", plotting.plot_curves_)
_add("plot radii", plotting.plot_radii_)
_add("plot examples", plotting.plot_examples_)
_add("plot leaderboard", plotting_tables.plot_leaderboard_)
app.add_typer(store, name="store", rich_help_panel=_PUBLISH)
app.add_typer(plot, name="plot", rich_help_panel=_PICTURES)
