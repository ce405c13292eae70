"""The command compare: two models on the same examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_dyn.cli import completion
from robustbench_dyn.cli.options import AsJson, require_stores, require_tables
from robustbench_dyn.cli.output import print_json
from robustbench_dyn.threat_models import parse_eps, parse_norm

if TYPE_CHECKING:
    from robustbench_dyn.reporting.comparison_output import Grid
    from robustbench_dyn.reporting.rows import Row


def compare(
    one: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A model: NAME, NAME/VARIANT or NAME~SIGMA; @HASH.",
            autocompletion=completion.models,
        ),
    ],
    other: Annotated[
        str,
        typer.Argument(metavar="B", help="Another one.", autocompletion=completion.models),
    ],
    tables: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of tables.",
            show_default="those that ship with the package",
        ),
    ] = None,
    store: Annotated[
        list[Path] | None,
        typer.Option("--store", metavar="FILE", help="SQLite file of verdicts; may be repeated."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only this data set.", autocompletion=completion.datasets
        ),
    ] = None,
    norm_name: Annotated[
        str | None,
        typer.Option(
            "--norm", metavar="NORM", help="Only this norm.", autocompletion=completion.norms
        ),
    ] = None,
    eps: Annotated[
        str | None, typer.Option(metavar="EPS", help="Only this radius, as 0.5 or 8/255.")
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="Name all examples that differ, not the first ten.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two models on the same examples: which differ, and how sure one can be."""
    norm = None if norm_name is None else parse_norm(norm_name)
    radius = None if eps is None else parse_eps(eps)
    stores = require_stores(store or [])
    from robustbench_dyn.cli.consoles import note, space
    from robustbench_dyn.reporting.comparison import compare as compare_entries
    from robustbench_dyn.reporting.comparison_output import Grid, document, told
    from robustbench_dyn.reporting.labels import is_named
    from robustbench_dyn.reporting.published import entries_of, read_folder, shipped_entries
    from robustbench_dyn.results.store import Store

    one, other = _label(one), _label(other)

    def is_compared(row: Row) -> bool:
        return is_named(row, one) or is_named(row, other)

    entries = [entry for path in stores for entry in entries_of(Store(path))]
    if tables is not None:
        entries += read_folder(require_tables(tables), with_evidence=is_compared)
    elif not stores:
        entries = shipped_entries(with_evidence=is_compared)
    found = compare_entries(entries, one, other, dataset=dataset, norm=norm, eps=radius)
    if as_json:
        print_json(document(one, other, found))
        return
    for part in told(one, other, found, all_examples=examples):
        if isinstance(part, Grid):
            _print_grid(part)
        elif part:
            note(part)
        else:
            space()


def _print_grid(grid: Grid) -> None:
    from robustbench_dyn.cli.consoles import Column, table

    first, *others = grid.headings
    importance = {name: k + 1.0 for k, name in enumerate(grid.dispensable)}
    columns = [
        Column(name, importance[name], right=True)
        if name in importance
        else Column(name, right=True)
        for name in others
    ]
    table([first, *columns], grid.rows, instead="--json")


def _label(model: str) -> str:
    """Return a model as tables call it; ~SIGMA and @HASH after its name stay."""
    from robustbench_dyn.models.sources import table_name

    name, after = re.fullmatch(r"(?s)(.*?)((?:~[0-9.e+-]+)?(?:@\w+)?)", model).groups()  # type: ignore[union-attr]
    return table_name(name) + after
