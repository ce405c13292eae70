"""Leaderboards: one sorted CSV per data set and threat model, and a markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd

from robustbench_dyn.errors import InputError
from robustbench_dyn.files import write_text
from robustbench_dyn.names import file_name, inside
from robustbench_dyn.reporting.cells import to_markdown_text
from robustbench_dyn.reporting.folder import replacing_folder, settled
from robustbench_dyn.reporting.headings import format_eps
from robustbench_dyn.reporting.rows import checked_row, read_rows, to_csv
from robustbench_dyn.resources import shipped
from robustbench_dyn.results.store import Run, Store
from robustbench_dyn.results.summary import SUMMARY_COLUMNS

# Costs of a row; the page shows them per example.
_COSTS = ("forward_passes", "backward_passes", "seconds")
_ACCURACIES = ("clean_accuracy", "certified_accuracy", "empirical_accuracy")
_PERCENT = (*_ACCURACIES, "gap", "ci_low", "ci_high")
_SHOWN = ("model", "n_examples", *_PERCENT, "certifiers", "attacks", *_COSTS)


def leaderboard(store: Store) -> pd.DataFrame:
    """Return one row per evaluation and eps, best first within a threat model.

    The run with the most examples counts for each evaluation; evaluations with a refuted
    certificate have no row. Raises InputError for a row that breaks a rule of rows.py.
    """
    largest: dict[tuple[str, float], Run] = {}
    for run in store.runs():
        other = largest.get((run.key, run.eps))
        if other is None or run.n_examples > other.n_examples:
            largest[run.key, run.eps] = run
    return _table(
        checked_row(
            run.summary, f"{store.path or 'the store'}, run {run.key[:12]} at eps {run.eps}"
        )
        for run in largest.values()
    )


def published() -> pd.DataFrame:
    """Return the tables that ship with the package as one table, sorted as by leaderboard()."""
    table = read_leaderboards(shipped("leaderboards"))
    if table.empty:
        raise InputError("this copy of robustbench-dyn carries no published table")
    return table


def read_leaderboards(folder: Path) -> pd.DataFrame:
    """Return the tables of a folder as one table, sorted as by leaderboard(); may be empty.

    Raises InputError for a CSV that is no leaderboard, with the line that breaks a rule.
    """
    paths = sorted(settled(folder).glob("*.csv"))
    return _table(row for path in paths for row in read_rows(path))


def merge_leaderboards(table: pd.DataFrame, *, into: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both; those of `table` replace the same model and threat model."""
    new = set(_evaluations(table))
    kept = into[[row not in new for row in _evaluations(into)]]
    return _table([*_rows_of(kept), *_rows_of(table)])


def write_leaderboards(table: pd.DataFrame, folder: Path, *, add: bool = False) -> list[Path]:
    """Write one CSV per data set and threat model, and README.md with all of them.

    All rows are checked first, and the folder is replaced as a whole (folder.py): after an error
    or a kill it has its old tables or the new ones, not some of both. add: keep the rows of the
    folder whose model and threat model are not in the table; otherwise tables of other threat
    models stay beside the page. Returns the paths written. Raises InputError for an empty table
    and for rows that break a rule, OutputError where the folder cannot be written.
    """
    if table.empty:
        raise InputError(
            "the store holds no finished run; start one with: dynbench run --model NAME"
        )
    rows = [checked_row(row, f"row {k}") for k, row in enumerate(_rows_of(table), start=1)]
    table = _table(rows)
    with replacing_folder(folder) as new:
        if add:
            table = merge_leaderboards(table, into=read_leaderboards(folder))
            for path in new.glob("*.csv"):
                path.unlink()
        files = _csv_files(table)
        for name, of_one in files.items():
            write_text(inside(new, name), to_csv(_rows_of(of_one)))
        write_text(new / "README.md", to_markdown(table))
    return [folder / name for name in (*files, "README.md")]


def _csv_files(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each CSV by its name; raises InputError where two have one name."""
    files: dict[str, pd.DataFrame] = {}
    folded: dict[str, str] = {}
    for dataset, norm, eps, rows in _by_threat_model(table):
        name = file_name(dataset, norm, format_eps(eps).replace("/", "_"), suffix=".csv")
        # Some file systems do not tell A from a.
        if other := folded.get(name.casefold()):
            raise InputError(
                f"the tables {other} and {name} would be one file on some systems; rename one of "
                "the data sets"
            )
        folded[name.casefold()] = name
        files[name] = rows
    return files


def to_markdown(table: pd.DataFrame) -> str:
    """Return the tables as GitHub markdown, accuracies in percent."""
    parts = [
        "# Leaderboards",
        "Certified: proved that no adversarial example exists. Empirical: survived the listed "
        "attacks. The true robust accuracy lies between the two; [ci_low, ci_high] contains it "
        "with 95 % confidence. A model NAME~SIGMA is a smoothed classifier; each of its "
        "certificates is wrong with probability at most alpha, which the certifier names. Forward "
        "passes, backward passes and seconds are means per example. Written by `dynbench "
        "leaderboard`; the CSVs beside this page hold all columns.",
    ]
    for dataset, norm, eps, rows in _by_threat_model(table):
        parts.append(f"## {to_markdown_text(dataset)}, {norm}, eps {format_eps(eps)}")
        lines = ["| " + " | ".join(_SHOWN) + " |", "|" + " --- |" * len(_SHOWN)]
        for row in rows.to_dict("records"):
            row |= {column: row[column] / row["n_examples"] for column in _COSTS}
            lines.append("| " + " | ".join(_cell(c, row[c]) for c in _SHOWN) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Return rows as a table in the order of leaderboard()."""
    table = pd.DataFrame(list(rows), columns=list(SUMMARY_COLUMNS))
    by = ["dataset", "norm", "eps", "certified_accuracy", "empirical_accuracy", "model"]
    ascending = [True, True, True, False, False, True]
    return table.sort_values(by, ascending=ascending, kind="stable").reset_index(drop=True)


def _rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", table.to_dict("records"))


def _evaluations(table: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    return table[["model", "dataset", "norm", "eps"]].itertuples(index=False, name=None)


def _by_threat_model(table: pd.DataFrame) -> Iterator[tuple[str, str, float, pd.DataFrame]]:
    for key, rows in table.groupby(["dataset", "norm", "eps"], sort=True, dropna=False):
        dataset, norm, eps = cast("tuple[str, str, float]", key)
        yield dataset, norm, float(eps), rows


def _cell(column: str, value: object) -> str:
    if value is None or value != value:  # noqa: PLR0124  (NaN)
        return "–"
    if column in _PERCENT:
        return f"{100 * float(str(value)):.1f}"
    if column in _COSTS:
        return f"{value:.3g}" if column == "seconds" else f"{value:,.0f}"
    return to_markdown_text(str(value))
