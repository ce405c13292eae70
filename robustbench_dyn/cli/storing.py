"""Commands about the files of stores: check, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn.cli.options import require_store, require_stores
from robustbench_dyn.cli.output import print_result
from robustbench_dyn.results.headings import counted

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


def merge(
    stores: Annotated[
        list[Path],
        typer.Argument(metavar="STORE...", help="SQLite files of verdicts, or folders of them."),
    ],
    to: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Store that they are merged into; it is made if there is none."
        ),
    ],
) -> None:
    """Merge stores; exit 1 where one has an adversarial example inside a radius of another one."""
    from robustbench_dyn.results.exchange import merge_into

    merged = merge_into(require_stores(stores, but=to), to)
    for one in merged:
        left_out = f", {counted(one.left_out, 'verdict')} left out" if one.left_out else ""
        print_result(
            f"{one.path}: {counted(one.evaluations, 'new evaluation')}, "
            f"{counted(one.verdicts, 'verdict')}{left_out}"
        )
    if any(one.left_out for one in merged):
        print_result(
            "what was left out rests on certificates that a flag of another store voids; the next "
            "run computes it again"
        )
    violations = [violation for one in merged for violation in one.violations]
    for key, found in violations[:_SHOWN]:
        print_result(
            f"unsound: evaluation {key[:12]} certifies example {found.example_id} within "
            f"{found.certified_radius:.6g}, and {found.attack} fools the model at "
            f"{found.adversarial_distance:.6g}; {to} has the example, and no row of the evaluation"
        )
    if len(violations) > _SHOWN:
        print_result(f"and {len(violations) - _SHOWN} more")
    if violations:
        raise typer.Exit(1)
