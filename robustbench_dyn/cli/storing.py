"""Commands about the file of a store: check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn.cli.options import require_store
from robustbench_dyn.cli.output import print_result

_SHOWN = 20


def check_store(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="SQLite file of the verdicts.")],
    delete: Annotated[
        bool,
        typer.Option("--delete", help="Delete damaged rows that a run computes again."),
    ] = False,
) -> None:
    """Check all pages, checksums and references of a store; exit 2 where one is wrong."""
    from robustbench_dyn.results.store import Store

    problems = Store(require_store(file)).check(delete=delete)
    for problem in problems[:_SHOWN]:
        print_result(problem)
    if len(problems) > _SHOWN:
        print_result(f"and {len(problems) - _SHOWN} more")
    if problems:
        raise typer.Exit(2)
    print_result(f"{file} is sound")
