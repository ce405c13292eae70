"""Rows that no longer count, with reason and evidence: withdrawn.csv and withdrawn.parquet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.files import write_text
from robustbench_dyn.reporting.folder import settled
from robustbench_dyn.reporting.labels import label
from robustbench_dyn.reporting.published import WITHDRAWN, Entry
from robustbench_dyn.reporting.rows import Row, identity, read_rows, to_csv
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.evidence_files import read_evidence, write_evidence

_MORE: Final = ("why", "withdrawn_at")
EVIDENCE: Final = Path(WITHDRAWN).with_suffix(".parquet").name


class Withdrawal(NamedTuple):
    """A row that no longer counts, with the reason and the time (UTC)."""

    row: Row
    why: str
    at: str


def read_withdrawn(folder: Path) -> list[Withdrawal]:
    """Return the withdrawn rows of a folder; raises InputError where their file breaks a rule."""
    path = settled(folder) / WITHDRAWN
    if not path.is_file():
        return []
    rows = read_rows(path, more=_MORE)
    return [Withdrawal(row, *(row.pop(name) for name in _MORE)) for row in rows]


def write_withdrawn(
    folder: Path, withdrawn: Sequence[Withdrawal], new: Iterable[Evidence] = ()
) -> list[str]:
    """Write the withdrawn rows of a folder, in place of those that are there; return the names.

    new: evidence of rows that the folder does not have among its withdrawn ones yet.
    """
    old = read_evidence(folder / EVIDENCE) if (folder / EVIDENCE).is_file() else {}
    for name in (WITHDRAWN, EVIDENCE):
        (folder / name).unlink(missing_ok=True)
    if not withdrawn:
        return []
    rows = [one.row | {"why": one.why, "withdrawn_at": one.at} for one in withdrawn]
    write_text(folder / WITHDRAWN, to_csv(rows, more=_MORE))
    named = {one.row["evidence_sha256"] for one in withdrawn}
    known = old | {one.sha256: one for one in new}
    evidence = [one for name, one in known.items() if name in named]
    if not evidence:
        return [WITHDRAWN]
    write_evidence(folder / EVIDENCE, evidence)
    return [WITHDRAWN, EVIDENCE]


def check_not_withdrawn(entries: Iterable[Entry], withdrawn: Iterable[Withdrawal]) -> None:
    """Raise InputError where one of the entries is a claim that was withdrawn."""
    gone = {identity(one.row): one for one in withdrawn}
    for entry in entries:
        if found := gone.get(identity(entry.row)):
            raise InputError(
                f"{label(entry.row)} was withdrawn on {found.at[:10]} ({found.why}); to publish it "
                "all the same, give --replace"
            )
