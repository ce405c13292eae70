"""Published rows with the evidence behind them: from a store, and from a folder of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from robustbench_dyn.errors import InputError, StoreError
from robustbench_dyn.reporting.folder import settled
from robustbench_dyn.reporting.reported import is_reported
from robustbench_dyn.reporting.rows import (
    OF_TABLES,
    Row,
    RowIdentity,
    checked_row,
    identity,
    read_rows,
)
from robustbench_dyn.resources import shipped
from robustbench_dyn.results.evidence import N_ADVERSARIAL, Evidence
from robustbench_dyn.results.evidence_files import read_evidence
from robustbench_dyn.results.store import Store

# Files of a folder that are no table.
WITHDRAWN: Final = "withdrawn.csv"
PROPERTIES: Final = "properties.csv"

# Of which rows the evidence is read.
RowChoice = Callable[[Row], bool]


class Entry(NamedTuple):
    """A row, and the evidence that it is computed from.

    None in tables of earlier versions, and where it was not asked for: the row has its hash.
    """

    row: Row
    evidence: Evidence | None


def entry_of(evidence: Evidence, place: str) -> Entry:
    """Return the row that evidence comes to, not ranked yet.

    place: for the message. Raises InputError where the row breaks a rule of rows.py.
    """
    row = dict.fromkeys(OF_TABLES) | evidence.row()
    return Entry(checked_row(row, place), evidence)


def entries_of(store: Store, *, n_adversarial: int = N_ADVERSARIAL) -> list[Entry]:
    """Return one entry per evaluation and eps: of the most examples that runs have finished.

    n_adversarial: adversarial examples that are kept of each row. Evaluations with a refuted
    certificate have no row. Raises InputError for a row that breaks a rule of rows.py, StoreError
    where verdicts of a finished run are missing.
    """
    return [
        entry_of(one, f"{store.path or 'the store'}, evaluation {one.record.spec.key()[:12]}")
        for one in _evidence_of(store, n_adversarial)
    ]


def refuted_in(store: Store) -> list[str]:
    """Return the models of a store that an attack refuted a certificate of; they have no row."""
    records = store.records()
    return sorted({records[key].spec.model for key in records if store.violations(key)})


def _evidence_of(store: Store, n_adversarial: int) -> Iterator[Evidence]:
    ended: dict[tuple[str, float], str] = {}
    for run in store.runs():
        place = run.key, run.eps
        ended[place] = max(str(run.summary.get("evaluated_at", "")), ended.get(place, ""))
    for (key, eps), evaluated_at in ended.items():
        # The most examples; of equally many, the first.
        examples = max(store.finished(key, eps), key=lambda one: (len(one), -one.start))
        verdicts = [v for v in store.verdicts(key, eps) if v.example_id in examples]
        if len(verdicts) < len(examples) or any(verdict.next_stage for verdict in verdicts):
            raise StoreError(
                f"{store.path or 'the store'} has a finished run of {len(examples)} examples of "
                f"evaluation {key[:12]} at eps {eps:g}, but not all of its verdicts; run it again"
            )
        yield Evidence(
            record=store.record(key),
            eps=eps,
            verdicts=tuple(verdicts),
            flags=tuple(store.flags(key)),
            signs=tuple(store.signs(key, eps)),
            evaluated_at=evaluated_at,
            n_adversarial=n_adversarial,
        ).with_sample()


def every_row(_row: Row) -> bool:
    """Ask for the evidence of all rows."""
    return True


def no_row(_row: Row) -> bool:
    """Ask for no evidence, which is what takes the time."""
    return False


def read_table(path: Path, *, with_evidence: RowChoice = every_row) -> list[Entry]:
    """Return the rows of a CSV, and of some of them the evidence in the Parquet file beside it.

    Raises InputError, with the file, the line and the rule, where one cannot be read or breaks a
    rule, and where such a row names evidence that is not there.
    """
    rows = read_rows(path)
    beside = path.with_suffix(".parquet")
    named = {
        row["evidence_sha256"] for row in rows if row["evidence_sha256"] and with_evidence(row)
    }
    evidence = read_evidence(beside, only=named) if named else {}
    missing = sorted(named - set(evidence))
    if missing:
        raise InputError(
            f"{path}: a row names the evidence {missing[0][:12]}, which {beside.name} does not "
            "hold; one of the two files was changed"
        )
    return [Entry(row, evidence.get(row["evidence_sha256"])) for row in rows]


def tables_in(folder: Path) -> list[Path]:
    """Return the CSVs of a folder that are tables of ranked rows."""
    found = sorted(settled(folder).glob("*.csv"))
    others = (WITHDRAWN, PROPERTIES)
    return [path for path in found if not (path.name in others or is_reported(path.name))]


def read_folder(folder: Path, *, with_evidence: RowChoice = every_row) -> list[Entry]:
    """Return the entries of all tables of a folder; with_evidence: see read_table.

    Raises what read_table raises, and InputError where two rows are the same claim.
    """
    found: dict[RowIdentity, Entry] = {}
    for path in tables_in(folder):
        for entry in read_table(path, with_evidence=with_evidence):
            if found.setdefault(identity(entry.row), entry) is not entry:
                raise InputError(
                    f"{path}: two rows of the folder are of {entry.row['model']}, with the same "
                    "weights, images, threat model, suite and seed; delete one of them"
                )
    return list(found.values())


def shipped_entries(*, with_evidence: RowChoice = every_row) -> list[Entry]:
    """Return the entries of the tables of the package; with_evidence: see read_table."""
    entries = read_folder(shipped("leaderboards"), with_evidence=with_evidence)
    if not entries:
        raise InputError("this copy of robustbench-dyn carries no published table")
    return entries
