"""Commands about many evaluations: sweep, leaderboard, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli import completion
from robustbench_dyn.cli.callbacks import parse_device
from robustbench_dyn.cli.options import (
    MACHINE,
    AsJson,
    DataDir,
    Limited,
    Plugins,
    Quiet,
    StoreFile,
    Trust,
    require_store,
)
from robustbench_dyn.cli.output import announce_files, print_error, print_json, print_result


def sweep_(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="List of what to evaluate.")],
    engine: Annotated[
        str,
        typer.Option(
            metavar="ENGINE",
            help="Engine that runs the shards: local or ray.",
            rich_help_panel=MACHINE,
            autocompletion=completion.engines,
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Shards at a time.",
            show_default="one per core",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE",
            help="cpu, or cuda: one GPU per worker.",
            rich_help_panel=MACHINE,
            callback=parse_device,
            autocompletion=completion.devices,
        ),
    ] = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    as_json: AsJson = False,
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Evaluate models x data sets x threat models x seeds; resumes where it was stopped."""
    from robustbench_dyn.cli.arguments import check_store
    from robustbench_dyn.cli.terminal import sweep_table
    from robustbench_dyn.plugins import limits_in_use
    from robustbench_dyn.progress.display import sweep_display
    from robustbench_dyn.sweeps.sweep import sweep
    from robustbench_dyn.sweeps.sweep_file import read_sweep

    del limits  # heeded while the options were read
    config = read_sweep(file)
    check_store(store)
    with sweep_display(enabled=not (as_json or quiet)) as progress:
        outcome = sweep(
            config,
            store,
            engine=engine,
            workers=workers,
            device=device,
            plugins=tuple(plugins or ()),
            trust=trust,
            limits=limits_in_use(),
            data_dir=data_dir,
            progress=progress,
        )
    if as_json:
        about = {
            "version": __version__,
            "store": str(store),
            "command": sys.argv[1:],
            "failed": {str(shard): reason for shard, reason in outcome.failed.items()},
            "unsound": {str(shard): reason for shard, reason in outcome.unsound.items()},
        }
        print_json({"rows": outcome.rows, "run": about})
    else:
        sweep_table(outcome.rows)
        announce_files(store)
    for shard, reason in (outcome.unsound | outcome.failed).items():
        print_error(f"{shard}: {reason}")
    if outcome.unsound or outcome.failed:
        raise typer.Exit(1 if outcome.unsound else 2)


def export_(
    to: Annotated[
        Path, typer.Argument(metavar="FILE", help="File of the table (.csv or .parquet).")
    ],
    store: StoreFile = Path("dynbench.sqlite"),
    pending: Annotated[
        bool, typer.Option("--pending", help="Include examples that wait for a stage.")
    ] = False,
) -> None:
    """Write all final verdicts of a store, one row per example and eps."""
    from robustbench_dyn.reporting.export import export_store
    from robustbench_dyn.results.headings import counted
    from robustbench_dyn.results.store import Store

    n = export_store(Store(require_store(store)), to, pending=pending)
    print_result(f"{counted(n, 'verdict')}: {to}")
