"""Leaderboards: one sorted CSV per data set and threat model, and a markdown page."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import pandas as pd

from robustbench_dyn.errors import InputError
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
    certificate have no row.
    """
    largest: dict[tuple[str, float], Run] = {}
    for run in store.runs():
        other = largest.get((run.key, run.eps))
        if other is None or run.n_examples > other.n_examples:
            largest[run.key, run.eps] = run
    rows = [run.summary for run in largest.values()]
    return _sorted(pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)))


def published() -> pd.DataFrame:
    """Return the tables that ship with the package as one table, sorted as by leaderboard()."""
    table = read_leaderboards(shipped("leaderboards"))
    if table.empty:
        raise InputError("this copy of robustbench-dyn carries no published table")
    return table


def read_leaderboards(folder: Path) -> pd.DataFrame:
    """Return the tables of a folder as one table, sorted as by leaderboard(); may be empty.

    Raises InputError for a CSV that is no leaderboard.
    """
    # This engine parses floats exactly as they were written, in every version of pandas.
    tables = {path: pd.read_csv(path, engine="python") for path in sorted(folder.glob("*.csv"))}
    for path, table in tables.items():
        if missing := [column for column in SUMMARY_COLUMNS if column not in table]:
            raise InputError(
                f"{path} is no leaderboard, it lacks the column {missing[0]}; give a folder of "
                "tables that dynbench leaderboard wrote"
            )
    parts = [table for table in tables.values() if not table.empty]
    if not parts:
        return pd.DataFrame(columns=list(SUMMARY_COLUMNS))
    return _sorted(pd.concat(parts, ignore_index=True))


def merge_leaderboards(table: pd.DataFrame, *, into: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both; those of `table` replace the same model and threat model."""
    new = set(_evaluations(table))
    kept = into[[row not in new for row in _evaluations(into)]]
    return _sorted(pd.concat([kept, table], ignore_index=True)) if len(kept) else table


def write_leaderboards(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write one CSV per data set and threat model, and README.md with all of them.

    Returns the paths written. Raises InputError for an empty table.
    """
    if table.empty:
        raise InputError(
            "the store holds no finished run; start one with: dynbench run --model NAME"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for dataset, norm, eps, rows in _by_threat_model(table):
        path = folder / f"{dataset}-{norm}-{format_eps(eps).replace('/', '_')}.csv"
        _replace(path, rows.to_csv(index=False, lineterminator="\n"))
        written.append(path)
    page = folder / "README.md"
    _replace(page, to_markdown(table))
    return [*written, page]


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
        parts.append(f"## {dataset}, {norm}, eps {format_eps(eps)}")
        lines = ["| " + " | ".join(_SHOWN) + " |", "|" + " --- |" * len(_SHOWN)]
        for row in rows.to_dict("records"):
            row |= {column: row[column] / row["n_examples"] for column in _COSTS}
            lines.append("| " + " | ".join(_cell(c, row[c]) for c in _SHOWN) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def format_eps(eps: float) -> str:
    """Write eps as k/255 where it is one, and as a short decimal otherwise."""
    k = Fraction(eps * 255).limit_denominator(1)
    return f"{k}/255" if abs(eps * 255 - k) < 1e-9 and eps * 255 < 128 and k else f"{eps:g}"


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    by = ["dataset", "norm", "eps", "certified_accuracy", "empirical_accuracy", "model"]
    ascending = [True, True, True, False, False, True]
    return table.sort_values(by, ascending=ascending, kind="stable").reset_index(drop=True)


def _evaluations(table: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    return table[["model", "dataset", "norm", "eps"]].itertuples(index=False, name=None)


def _by_threat_model(table: pd.DataFrame) -> Iterator[tuple[str, str, float, pd.DataFrame]]:
    for key, rows in table.groupby(["dataset", "norm", "eps"], sort=True):
        dataset, norm, eps = cast("tuple[str, str, float]", key)
        yield dataset, norm, float(eps), rows


def _cell(column: str, value: object) -> str:
    if value is None or value != value:  # noqa: PLR0124  (NaN)
        return "–"
    if column in _PERCENT:
        return f"{100 * float(str(value)):.1f}"
    if column in _COSTS:
        return f"{value:.3g}" if column == "seconds" else f"{value:,.0f}"
    return str(value)


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
