"""Commands about many evaluations: sweep, leaderboard, export."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli.options import (
    AsJson,
    DataDir,
    Plugins,
    StoreFile,
    complain,
    existing,
)


def sweep_(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="What to run.")],
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Shards at a time; by default as many as cores.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda: one GPU a worker.")] = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    as_json: AsJson = False,
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Run models x data sets x threat models x seeds; goes on where it was stopped."""
    from robustbench_dyn.cli.terminal import sweep_display, sweep_table  # noqa: PLC0415
    from robustbench_dyn.sweeps.sweep import read_sweep, sweep  # noqa: PLC0415

    content = read_sweep(file)
    with sweep_display(enabled=not as_json) as progress:
        outcome = sweep(
            content, store, engine=engine, workers=workers, device=device,
            plugins=tuple(plugins or ()), data_dir=data_dir, progress=progress,
        )  # fmt: skip
    if as_json:
        about = {"version": __version__, "store": str(store), "command": sys.argv[1:],
                 "failed": {str(shard): reason for shard, reason in outcome.failed.items()},
                 "unsound": {str(shard): reason for shard, reason in outcome.unsound.items()},
                 }  # fmt: skip
        typer.echo(json.dumps({"rows": outcome.rows, "run": about}, indent=2, allow_nan=False))
    else:
        sweep_table(outcome.rows)
    for shard, reason in (outcome.unsound | outcome.failed).items():
        complain(f"{shard}: {reason}")
    if outcome.unsound or outcome.failed:
        raise typer.Exit(1 if outcome.unsound else 2)


def leaderboard(
    store: StoreFile = Path("dynbench.sqlite"),
    to: Annotated[Path, typer.Option(help="The folder that the tables go to.")] = Path(
        "leaderboards"
    ),
    add: Annotated[
        bool, typer.Option("--add", help="Keep the rows there of what the store does not hold.")
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Show the tables that came with the package.")
    ] = False,
) -> None:
    """Write one CSV a data set and threat model, and a page of all of them."""
    from robustbench_dyn.cli.terminal import page  # noqa: PLC0415
    from robustbench_dyn.reporting import leaderboard as tables  # noqa: PLC0415
    from robustbench_dyn.results.store import Store  # noqa: PLC0415

    if published:
        page(tables.to_markdown(tables.published()))
        return
    table = tables.leaderboard(Store(existing(store)))
    if add:
        table = tables.added(table, to=tables.read_leaderboards(to))
    for path in tables.write_leaderboards(table, to):
        typer.echo(path)


def export_(
    to: Annotated[Path, typer.Argument(help="The table (.csv or .parquet).")],
    store: StoreFile = Path("dynbench.sqlite"),
    pending: Annotated[
        bool, typer.Option("--pending", help="Also examples that wait for an attack or certifier.")
    ] = False,
) -> None:
    """Write every final verdict of a store, a row an example and eps."""
    from robustbench_dyn.reporting.export import export_store  # noqa: PLC0415
    from robustbench_dyn.results.store import Store  # noqa: PLC0415

    typer.echo(f"{export_store(Store(existing(store)), to, pending=pending)} verdicts: {to}")
