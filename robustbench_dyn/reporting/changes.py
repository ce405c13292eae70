"""Changes of published rows: new rows replace old ones of the same claim, unless they say less."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.labels import label
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.rows import Row, RowIdentity, identity, table_of
from robustbench_dyn.results.headings import counted


class Change(NamedTuple):
    """What publishing did to a row; before: the row that another one replaced."""

    kind: Literal["added", "replaced", "kept", "dropped", "withdrawn"]
    row: Row
    before: Row | None = None


def combine(
    new: Sequence[Entry],
    old: Sequence[Entry],
    *,
    add: bool,
    replace: bool,
    folder: Path,
) -> tuple[list[Entry], list[Change]]:
    """Return the rows of both and what became of each; see publishing.publish for the rules."""
    known = {identity(entry.row): entry for entry in old}
    new = _one_each(new)
    changes = [
        Change("replaced", entry.row, known[identity(entry.row)].row)
        if identity(entry.row) in known
        else Change("added", entry.row)
        for entry in new
    ]
    if not replace:
        for change in changes:
            _check_replacement(change)
    taken = {identity(entry.row) for entry in new}
    tables = {table_of(entry.row) for entry in new}
    left = [entry for entry in old if identity(entry.row) not in taken]
    kept = [entry for entry in left if add or table_of(entry.row) not in tables]
    dropped = [entry for entry in left if not (add or table_of(entry.row) not in tables)]
    if dropped and not replace:
        raise InputError(
            f"{folder} has {counted(len(dropped), 'row')} that the store does not hold, "
            f"{label(dropped[0].row)} for one; keep them with --add, or drop them with --replace"
        )
    changes += [Change("kept", entry.row) for entry in kept]
    changes += [Change("dropped", entry.row) for entry in dropped]
    return [*new, *kept], changes


def _one_each(entries: Iterable[Entry]) -> list[Entry]:
    """Return one entry an identity: of the most examples, then the narrowest bracket."""
    best: dict[RowIdentity, Entry] = {}
    for entry in entries:
        other = best.setdefault(identity(entry.row), entry)
        if _worth(entry) > _worth(other):
            best[identity(entry.row)] = entry
    return list(best.values())


def _worth(entry: Entry) -> tuple[object, ...]:
    row = entry.row
    gap = 1.0 if row["gap"] is None else row["gap"]
    return row["n_examples"], -gap, row["evaluated_at"]


def _check_replacement(change: Change) -> None:
    """Raise InputError where a row would be replaced by one that says less."""
    row, before = change.row, change.before
    if before is None:
        return
    if row["n_examples"] < before["n_examples"]:
        raise InputError(
            f"{label(row)} would replace a row of {before['n_examples']} examples; run it on as "
            "many, or give --replace"
        )
    if row["certifiers"] == "none" != before["certifiers"]:
        raise InputError(
            f"{label(row)} ran no certifier, and would replace a row of {before['certifiers']}; "
            "run it with certifiers, or give --replace"
        )
