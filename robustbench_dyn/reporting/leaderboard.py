"""Leaderboards: rows in their places, the best first, with what keeps some from being ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_dyn.reporting.open_flags import open_flags
from robustbench_dyn.reporting.properties import Findings
from robustbench_dyn.reporting.published import (
    Entry,
    entries_of,
    no_row,
    read_folder,
    shipped_entries,
)
from robustbench_dyn.reporting.ranking import ranked
from robustbench_dyn.reporting.rows import PUBLISHED_COLUMNS, table_of
from robustbench_dyn.results.store import Store


def leaderboard(store: Store) -> pd.DataFrame:
    """Return one row per evaluation and eps, best first within a threat model.

    The most examples that runs have finished count for each evaluation; evaluations with a refuted
    certificate have no row. Raises what entries_of raises.
    """
    return _as_frame(placed(entries_of(store)))


def published() -> pd.DataFrame:
    """Return the tables that ship with the package as one table, sorted as by leaderboard()."""
    return _as_frame(shipped_entries(with_evidence=no_row))


def read_leaderboards(folder: Path) -> pd.DataFrame:
    """Return the tables of a folder as one table, sorted as by leaderboard(); may be empty.

    Raises InputError for a CSV that is no leaderboard, with the line that breaks a rule.
    """
    return _as_frame(read_folder(folder, with_evidence=no_row))


def placed(entries: Iterable[Entry], findings: Findings | None = None) -> list[Entry]:
    """Return entries with their ranks and open flags, in the order of published tables.

    findings: measured properties, of which those that fail are open flags. Within a data set and
    threat model, rows that are ranked come first, those of the most images before others, and then
    the highest certified accuracy.
    """
    known = findings or Findings()
    flagged = [
        entry._replace(row=entry.row | {"open_flags": " ".join(flags)})
        for entry in entries
        for flags in [open_flags(entry.row, known.failed(entry.row))]
    ]
    return sorted(ranked(flagged), key=_place)


def _place(entry: Entry) -> tuple[Any, ...]:
    row = entry.row
    empirical = row["empirical_accuracy"]
    return (
        *table_of(row),
        bool(row["open_flags"]),
        -row["n_examples"],
        -row["certified_accuracy"],
        1.0 if empirical is None else -empirical,
        row["model"],
        str(row["seed"]),
        str(row["weights_sha256"]),
        str(row["suite"]),
    )


def _as_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    return pd.DataFrame([entry.row for entry in entries], columns=list(PUBLISHED_COLUMNS))
