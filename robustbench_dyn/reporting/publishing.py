"""Publish rows into a folder of tables: add, replace, keep and withdraw them, and say which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.files import write_text
from robustbench_dyn.names import file_name, inside
from robustbench_dyn.plugins import unknown
from robustbench_dyn.reporting.changes import Change, combine
from robustbench_dyn.reporting.folder import replacing_folder
from robustbench_dyn.reporting.labels import is_named, label
from robustbench_dyn.reporting.leaderboard import placed
from robustbench_dyn.reporting.markdown import to_markdown
from robustbench_dyn.reporting.properties import Findings, Measured, read_findings
from robustbench_dyn.reporting.properties import to_csv as properties_to_csv
from robustbench_dyn.reporting.published import (
    PROPERTIES,
    Entry,
    entry_of,
    read_folder,
    tables_in,
)
from robustbench_dyn.reporting.reported import read_reported
from robustbench_dyn.reporting.rows import Images, RowIdentity, identity, images, table_of, to_csv
from robustbench_dyn.reporting.withdrawn import (
    Withdrawal,
    check_not_withdrawn,
    read_withdrawn,
    write_withdrawn,
)
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.evidence_files import write_evidence
from robustbench_dyn.results.headings import format_eps

PAGE = "README.md"


class Published(NamedTuple):
    """paths: of the files that were written; changes: of the rows, in the order of the tables.

    Rows that left the tables come last.
    """

    paths: list[Path]
    changes: list[Change]


def publish(
    entries: Sequence[Entry], folder: Path, *, add: bool = False, replace: bool = False
) -> Published:
    """Write one CSV and its evidence per data set and threat model, and README.md of all.

    All rows are checked first, and the folder is replaced as a whole (folder.py): after an error
    or a kill it has its old tables or the new ones. A row replaces the one of equal identity
    (rows.identity). Findings about weights of which no row is left go, too. add: rows of the folder
    that no new one replaces stay. replace: allow a row of fewer examples to replace one of more, a
    row without certifiers one with them, a row that was withdrawn to come back, and, without add,
    rows of the same tables to be dropped.
    Raises InputError for no entries, for rows that break a rule and for what replace would allow,
    OutputError where the folder cannot be written.
    """
    if not entries:
        raise InputError(
            "the store holds no finished run; start one with: dynbench run --model NAME"
        )
    with replacing_folder(folder) as new:
        old = read_folder(folder)
        withdrawn = read_withdrawn(folder)
        if not replace:
            check_not_withdrawn(entries, withdrawn)
        final, changes = combine(entries, old, add=add, replace=replace, folder=folder)
        names, written = _write(new, final)
        back = {identity(entry.row) for entry in final}
        still = [one for one in withdrawn if identity(one.row) not in back]
        if len(still) < len(withdrawn):
            names += write_withdrawn(new, still)
        names += _drop_findings(new, [*(entry.row for entry in final), *(w.row for w in still)])
    return _published(folder, names, changes, written)


def withdraw(folder: Path, model: str, why: str) -> Published:
    """Move the rows of a model into withdrawn.csv, with the reason.

    model: NAME, or NAME@HASH with the first digits of the weights' hash. Raises InputError for a
    model without a row, and for an empty reason.
    """
    if not why.strip():
        raise InputError("a row is withdrawn for a reason; give it with --why")
    old = read_folder(folder)
    gone = [entry for entry in old if is_named(entry.row, model)]
    if not gone:
        raise InputError(unknown("model", model, sorted({entry.row["model"] for entry in old})))
    return withdraw_entries(folder, gone, " ".join(why.split()))


def withdraw_entries(folder: Path, gone: Sequence[Entry], why: str) -> Published:
    """Move entries of a folder's tables into withdrawn.csv, with the reason.

    Raises InputError where the folder does not have one of them any more.
    """
    names_of_gone = {_place(entry.row) for entry in gone}
    with replacing_folder(folder) as new:
        old = read_folder(folder)
        _check_there(folder, gone, old)
        kept = [entry for entry in old if _place(entry.row) not in names_of_gone]
        at = datetime.now(UTC).isoformat(timespec="seconds")
        withdrawn = [
            *read_withdrawn(folder),
            *(Withdrawal(entry.row, why, at) for entry in gone),
        ]
        evidence = [entry.evidence for entry in gone if entry.evidence is not None]
        more = write_withdrawn(new, withdrawn, evidence)
        names, written = _write(new, kept)
    changes = [Change("withdrawn", entry.row) for entry in gone]
    return _published(folder, [*names, *more], changes, written)


def correct(folder: Path, before: Entry, evidence: Evidence) -> Published:
    """Put corrected evidence, and the row that it comes to, in the place of an entry.

    Raises InputError where the folder does not have the entry any more.
    """
    with replacing_folder(folder) as new:
        after = entry_of(evidence, f"the corrected row of {before.row['model']}")
        old = read_folder(folder)
        _check_there(folder, [before], old)
        final = [after if _place(entry.row) == _place(before.row) else entry for entry in old]
        names, written = _write(new, final)
    return _published(folder, names, [Change("replaced", after.row, before.row)], written)


def add_findings(folder: Path, measured: Sequence[Measured]) -> Published:
    """Put measured properties beside the tables; a claim that fails keeps its rows apart."""
    with replacing_folder(folder) as new:
        weights = {one.weights_sha256 for one in measured}
        others = read_findings(folder / PROPERTIES).measured
        kept = [one for one in others if one.weights_sha256 not in weights]
        write_text(new / PROPERTIES, properties_to_csv(Findings([*kept, *measured])))
        entries = read_folder(folder)
        names, written = _write(new, entries)
    changes = [Change("kept", entry.row) for entry in entries]
    return _published(folder, [*names, PROPERTIES], changes, written)


def _write(new: Path, entries: Sequence[Entry]) -> tuple[list[str], list[Entry]]:
    """Write all tables of a folder, in place of those that are there.

    Returns the names of the files, and the entries as they were written, in their order.
    """
    for path in tables_in(new):
        path.unlink()
        path.with_suffix(".parquet").unlink(missing_ok=True)
    final = placed(entries, read_findings(new / PROPERTIES))
    names = []
    for name, of_one in _files(final).items():
        write_text(inside(new, name), to_csv(entry.row for entry in of_one))
        names.append(name)
        evidence = [entry.evidence for entry in of_one if entry.evidence is not None]
        if evidence:
            beside = Path(name).with_suffix(".parquet").name
            write_evidence(inside(new, beside), evidence)
            names.append(beside)
    write_text(new / PAGE, to_markdown(final, read_reported(new)))
    return [*names, PAGE], final


def _drop_findings(new: Path, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Drop what was measured of weights of which no row is left; return the file's name if so."""
    findings = read_findings(new / PROPERTIES)
    kept = findings.only_of(rows)
    if len(kept.measured) == len(findings.measured):
        return []
    write_text(new / PROPERTIES, properties_to_csv(kept))
    return [PROPERTIES]


def _published(
    folder: Path, names: Iterable[str], changes: Iterable[Change], written: Iterable[Entry]
) -> Published:
    """Return what publishing did, with the ranks and open flags that rows have got."""
    order = {_place(entry.row): (place, entry.row) for place, entry in enumerate(written)}
    gone = len(order)
    told = [
        (place, change._replace(row=row))
        for change in changes
        for place, row in [order.get(_place(change.row), (gone, change.row))]
    ]
    in_order = [change for _, change in sorted(told, key=itemgetter(0))]
    return Published([folder / name for name in names], in_order)


def _check_there(folder: Path, wanted: Iterable[Entry], entries: Iterable[Entry]) -> None:
    there = {_place(entry.row) for entry in entries}
    for entry in wanted:
        if _place(entry.row) not in there:
            raise InputError(
                f"{folder} does not hold {label(entry.row)} as it was read, since its tables were "
                "changed meanwhile; give the command again"
            )


def _files(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Return the rows of each CSV by its name; raises InputError where two have one name."""
    files: dict[str, list[Entry]] = {}
    folded: dict[str, tuple[str, tuple[object, ...]]] = {}
    for entry in entries:
        dataset, norm, eps = table = table_of(entry.row)
        name = file_name(dataset, norm, format_eps(eps).replace("/", "_"), suffix=".csv")
        # Some file systems do not tell A from a.
        other = folded.setdefault(name.casefold(), (name, table))
        if other[1] != table:
            raise InputError(
                f"the tables {other[0]} and {name} would be one file on some systems; rename one "
                "of the data sets"
            )
        files.setdefault(name, []).append(entry)
    return files


def _place(row: Mapping[str, Any]) -> tuple[RowIdentity, Images, str]:
    """Return what makes two rows the same one: the claim, its images and its evidence."""
    return identity(row), images(row), row["evidence_sha256"] or ""
