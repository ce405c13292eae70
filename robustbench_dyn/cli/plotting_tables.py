"""The command that draws published tables: plot leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_dyn.cli.options import MODEL, THREAT, require_tables
from robustbench_dyn.cli.plotting import PictureFile, picture
from robustbench_dyn.errors import InputError
from robustbench_dyn.threat_models import parse_eps, parse_norm

if TYPE_CHECKING:
    from robustbench_dyn.drawing.leaderboard import Bracket
    from robustbench_dyn.reporting.aggregation import Line
    from robustbench_dyn.reporting.published import Entry


def plot_leaderboard_(
    to: PictureFile,
    tables: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A CSV, or a folder of tables.",
            show_default="those that ship",
            rich_help_panel=MODEL,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only tables of this data set.", rich_help_panel=MODEL),
    ] = None,
    norm_name: Annotated[
        str | None,
        typer.Option(
            "--norm",
            metavar="NORM",
            help="Only tables of this norm: L2, Linf or L1.",
            rich_help_panel=THREAT,
        ),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(
            metavar="EPS",
            help="Only tables of this radius, as 0.5 or 8/255.",
            rich_help_panel=THREAT,
        ),
    ] = None,
) -> None:
    """Draw the brackets of all models of published tables, the best on top."""
    norm = parse_norm(norm_name) if norm_name is not None else None
    radius = parse_eps(eps) if eps is not None else None
    with picture(to) as figures:
        from robustbench_dyn.drawing.leaderboard import Table, plot_leaderboard
        from robustbench_dyn.reporting.aggregation import lines

        chosen = [
            Table(table.title, [_bracket(line) for line in table.lines])
            for table in lines(_entries(tables))
            if dataset in (None, table.dataset)
            and norm in (None, table.norm)
            and radius in (None, table.eps)
        ]
        if not chosen:
            parts = (dataset, norm_name, f"eps {eps}" if eps is not None else None)
            asked = ", ".join(part for part in parts if part is not None)
            raise InputError(f"there is no table of {asked}; see: dynbench leaderboard --published")
        figures.append(plot_leaderboard(chosen))


def _entries(place: Path | None) -> list[Entry]:
    from robustbench_dyn.reporting.published import (
        no_row,
        read_folder,
        read_table,
        shipped_entries,
    )

    if place is None:
        return shipped_entries(with_evidence=no_row)
    if place.suffix == ".csv":
        found = read_table(place, with_evidence=no_row)
    else:
        found = read_folder(require_tables(place), with_evidence=no_row)
    if not found:
        raise InputError(f"{place} holds no row of a table; write one with: dynbench leaderboard")
    return found


def _bracket(line: Line) -> Bracket:
    from robustbench_dyn.drawing.leaderboard import Bracket

    low, high = line.interval
    return Bracket(
        label=line.label,
        certified=line.certified.mean,
        empirical=None if line.empirical is None else line.empirical.mean,
        clean=line.clean.mean,
        low=low,
        high=high,
        ranked=line.certified_rank is not None,
    )
