"""The command compare: two models on the same examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn.cli.options import AsJson, parse_norm, require_stores, require_tables
from robustbench_dyn.cli.output import print_json, print_result
from robustbench_dyn.threat_models import parse_eps


def compare(
    one: Annotated[
        str, typer.Argument(metavar="A", help="A model: NAME, NAME/VARIANT or NAME~SIGMA; @HASH.")
    ],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    tables: Annotated[
        Path | None,
        typer.Option(help="Folder of tables; by default those that ship with the package."),
    ] = None,
    store: Annotated[
        list[Path] | None,
        typer.Option("--store", help="SQLite file of verdicts; may be repeated."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    norm_name: Annotated[str | None, typer.Option("--norm", help="Only this norm.")] = None,
    eps: Annotated[str | None, typer.Option(help="Only this radius, such as 0.5 or 8/255.")] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="Name all examples that differ, not the first ten.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two models on the same examples: which differ, and how sure one can be."""
    norm = None if norm_name is None else parse_norm(norm_name)
    radius = None if eps is None else parse_eps(eps)
    stores = require_stores(store or [])
    from robustbench_dyn.reporting.comparison import compare as compare_entries
    from robustbench_dyn.reporting.comparison_output import document, to_text
    from robustbench_dyn.reporting.published import entries_of, read_folder, shipped_entries
    from robustbench_dyn.results.store import Store

    one, other = _label(one), _label(other)
    entries = [entry for path in stores for entry in entries_of(Store(path))]
    if tables is not None:
        entries += read_folder(require_tables(tables))
    elif not stores:
        entries = shipped_entries()
    found = compare_entries(entries, one, other, dataset=dataset, norm=norm, eps=radius)
    if as_json:
        print_json(document(one, other, found))
        return
    for line in to_text(one, other, found, all_examples=examples):
        print_result(line)


def _label(model: str) -> str:
    """Return a model as tables call it; ~SIGMA and @HASH after its name stay."""
    from robustbench_dyn.models.sources import table_name

    name, after = re.fullmatch(r"(?s)(.*?)((?:~[0-9.e+-]+)?(?:@\w+)?)", model).groups()  # type: ignore[union-attr]
    return table_name(name) + after
