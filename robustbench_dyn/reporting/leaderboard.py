"""Leaderboards: one sorted CSV per data set and threat model, and a markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import pandas as pd

from robustbench_dyn.reporting.cells import to_markdown_text
from robustbench_dyn.reporting.headings import format_eps
from robustbench_dyn.reporting.published import (
    Entry,
    entries_of,
    read_folder,
    shipped_entries,
)
from robustbench_dyn.reporting.rows import PUBLISHED_COLUMNS
from robustbench_dyn.results.store import Store

# Costs of a row; the page shows them per example.
_COSTS = ("forward_passes", "backward_passes", "seconds")
_ACCURACIES = ("clean_accuracy", "certified_accuracy", "empirical_accuracy")
_PERCENT = (*_ACCURACIES, "gap", "ci_low", "ci_high")
_SHOWN = ("model", "n_examples", *_PERCENT, "certifiers", "attacks", *_COSTS)


def leaderboard(store: Store) -> pd.DataFrame:
    """Return one row per evaluation and eps, best first within a threat model.

    The most examples that runs have finished count for each evaluation; evaluations with a refuted
    certificate have no row. Raises what entries_of raises.
    """
    return as_table(entries_of(store))


def published() -> pd.DataFrame:
    """Return the tables that ship with the package as one table, sorted as by leaderboard()."""
    return as_table(shipped_entries())


def read_leaderboards(folder: Path) -> pd.DataFrame:
    """Return the tables of a folder as one table, sorted as by leaderboard(); may be empty.

    Raises InputError for a CSV that is no leaderboard, with the line that breaks a rule.
    """
    return as_table(read_folder(folder))


def as_table(entries: Iterable[Entry]) -> pd.DataFrame:
    """Return the rows of entries as a table: the best first within a threat model."""
    table = pd.DataFrame([entry.row for entry in entries], columns=list(PUBLISHED_COLUMNS))
    by = ["dataset", "norm", "eps", "certified_accuracy", "empirical_accuracy", "model"]
    ascending = [True, True, True, False, False, True]
    return table.sort_values(by, ascending=ascending, kind="stable").reset_index(drop=True)


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
