"""Verify tables: every row of a CSV, or of all CSVs of a folder, to one of three depths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustbench_dyn.errors import DynbenchError, InputError, MachineError, one_line
from robustbench_dyn.models.sources import table_name
from robustbench_dyn.reporting.folder import settled
from robustbench_dyn.reporting.labels import is_named, label
from robustbench_dyn.reporting.open_flags import open_flags
from robustbench_dyn.reporting.properties import read_findings
from robustbench_dyn.reporting.published import (
    PROPERTIES,
    Entry,
    read_folder,
    read_table,
    tables_in,
)
from robustbench_dyn.reporting.ranking import ranked
from robustbench_dyn.reporting.rows import Row, identity, try_rows
from robustbench_dyn.reporting.withdrawn import read_withdrawn
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.evidence_files import read_evidence
from robustbench_dyn.verification.at_hand import DataAtHand
from robustbench_dyn.verification.contradictions import Claim, contradictions_between
from robustbench_dyn.verification.findings import Depth, Finding, Report
from robustbench_dyn.verification.options import ReplayOptions
from robustbench_dyn.verification.recount import recount

# A run that verifies a row calls it with the row's place, its number and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass
class Line:
    """A line of a table, and all that was found about it.

    row and evidence: None where they cannot be read.
    """

    place: str
    path: Path
    row: Row | None = None
    evidence: Evidence | None = None
    findings: list[Finding] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self, depth: Depth) -> Report:
        """Return what is said of the line."""
        return Report(
            place=self.place,
            row=label(self.row) if self.row is not None else "",
            depth=depth,
            findings=tuple(self.findings),
            statements=tuple(self.statements),
            notes=tuple(dict.fromkeys(self.notes)),
        )


def verify(
    path: Path,
    *,
    model: str = "",
    replay: ReplayOptions | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[Report]:
    """Verify a CSV, or all tables of a folder; return one report a row, and those of files.

    model: only rows of NAME, or NAME@HASH, though all are read; by its source, as
    module:FILE.py:FUNCTION, the rows of that model and of its smoothed classifiers. replay: how
    rows are replayed, by default not at all; a row whose recount fails is not. Raises InputError
    where there is no table, and no row of that model.
    """
    lines = read_lines(path)
    check_files(lines, path, data_dir=data_dir)
    wanted = lines
    if model:
        name = table_name(model)
        wanted = [line for line in lines if line.row is not None and _is_of(line.row, name, model)]
        if not wanted:
            raise InputError(f"{path} has no row of {name}; see: dynbench leaderboard --published")
    depth = Depth.RECOUNT
    if replay is not None:
        depth = Depth.FULL if replay.sample is None else Depth.REPLAY
        for number, line in enumerate(wanted, start=1):
            if progress is not None:
                progress(line.place, number, len(wanted))
            replay_line(line, replay)
    return [line.report(depth) for line in wanted]


def _is_of(row: Row, name: str, model: str) -> bool:
    """Say whether a row is of the model that the user gave, which is called so in tables."""
    return is_named(row, name) or (name != model and row["model"].partition("~")[0] == name)


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a CSV, or of all tables of a folder, with the evidence beside them.

    What cannot be read is a finding. Raises InputError where there is no table at all.
    """
    if settled(path).is_dir():
        paths = tables_in(path)
        if not paths:
            raise InputError(
                f"{path} holds no table; give a folder that dynbench leaderboard wrote"
            )
    else:
        if path.suffix != ".csv" or not path.is_file():
            raise InputError(f"there is no table {path}; give a CSV, or a folder of them")
        paths = [path]
    return [line for table in paths for line in _lines_of(table)]


def _lines_of(path: Path) -> list[Line]:
    lines = list[Line]()
    try:
        for place, row in try_rows(path):
            line = Line(place, path)
            lines.append(line)
            if isinstance(row, InputError):
                line.findings.append(Finding("schema", str(row).removeprefix(f"{place}: ")))
            else:
                line.row = row
    except InputError as error:
        lines.append(Line(str(path), path, findings=[Finding("schema", str(error))]))
    _attach_evidence(lines, path)
    return lines


def _attach_evidence(lines: list[Line], path: Path) -> None:
    beside, known, wrong = path.with_suffix(".parquet"), dict[str, Evidence](), ""
    if beside.exists():
        try:
            known = read_evidence(beside)
        except InputError as error:
            wrong = str(error)
    else:
        wrong = f"there is no {beside.name} beside the table"
    named = set[str]()
    for line in lines:
        if line.row is None:
            continue
        sha256 = line.row["evidence_sha256"]
        if not sha256:
            said = "the row names no evidence; tables of earlier versions had none"
        elif sha256 in named:
            said = "another row of the table rests on the same evidence"
        elif sha256 not in known:
            said = wrong or f"{beside.name} holds no evidence {sha256[:12]}, which the row names"
        else:
            line.evidence, said = known[sha256], ""
        named.add(sha256)
        if said:
            line.findings.append(Finding("evidence", said))
    unread = any(line.row is None for line in lines)
    for sha256 in sorted(set(known) - named):
        if not unread:
            said = f"the evidence {sha256[:12]} ({label(known[sha256].row())}) has no row"
            lines.append(Line(str(beside), path, findings=[Finding("evidence", said)]))


def check_files(lines: Sequence[Line], path: Path, *, data_dir: Path | None = None) -> None:
    """Recount all lines, and compare them with each other and with the files beside them."""
    data = DataAtHand(data_dir)
    for line in lines:
        if line.row is not None and line.evidence is not None:
            ids = (verdict.example_id for verdict in line.evidence.verdicts)
            images = data.images(line.evidence.record.spec.dataset, ids)
            if isinstance(images, str):
                line.notes.append(f"labels and adversarial examples are not checked: {images}")
            try:
                line.findings += recount(line.row, line.evidence, images)
            # A record may hold anything in the place of a name or a number.
            except Exception as error:
                said = f"the evidence cannot be recounted: {type(error).__name__}: {error}"
                line.findings.append(Finding("evidence", one_line(said)))
                line.evidence = None
    with_evidence = [line for line in lines if line.row is not None and line.evidence is not None]
    claims = [
        Claim(line.place.rpartition("/")[2], line.evidence)
        for line in with_evidence
        if line.evidence is not None
    ]
    for place, finding in contradictions_between(claims):
        with_evidence[place].findings.append(finding)
    folder = path if settled(path).is_dir() else path.parent
    _check_flags(lines, folder)
    _check_withdrawn(lines, folder)


def _check_flags(lines: Sequence[Line], folder: Path) -> None:
    """Hold the open flags of rows to what their flags and the measured properties come to."""
    try:
        measured = read_findings(folder / PROPERTIES)
    except InputError as error:
        lines[0].findings.append(Finding("properties", str(error)))
        return
    readable = True
    for line in lines:
        if line.row is None or line.evidence is None:
            readable = False
            continue
        due = open_flags(line.row, measured.failed(line.row))
        stands = (line.row["open_flags"] or "").split()
        if due != stands:
            told = f"open_flags is {' '.join(stands)!r}, and must be {' '.join(due)!r}"
            line.findings.append(Finding("open flags", told))
    # Ranks depend on all rows of a table.
    if readable:
        _check_ranks(lines)


def _check_ranks(lines: Sequence[Line]) -> None:
    entries = [Entry(line.row or {}, line.evidence) for line in lines]
    for line, entry in zip(lines, ranked(entries), strict=True):
        for name in ("certified_rank", "empirical_rank"):
            stands, due = (line.row or {})[name], entry.row[name]
            if stands != due:
                line.findings.append(Finding("ranks", f"{name} is {stands}, and must be {due}"))


def _check_withdrawn(lines: Sequence[Line], folder: Path) -> None:
    try:
        withdrawn = {identity(one.row): one for one in read_withdrawn(folder)}
    except InputError as error:
        lines[0].findings.append(Finding("withdrawn", str(error)))
        return
    for line in lines:
        gone = withdrawn.get(identity(line.row)) if line.row is not None else None
        if gone is None or line.row is None:
            continue
        said = f"the row was withdrawn on {gone.at[:10]} ({one_line(gone.why)})"
        if gone.row["evidence_sha256"] == line.row["evidence_sha256"]:
            line.findings.append(Finding("withdrawn", said))
        else:
            line.notes.append(f"{said}, and published again with other evidence")


def entries_to_correct(path: Path) -> list[Entry]:
    """Return the rows of a CSV or folder; raises InputError where one cannot be read."""
    return read_folder(path) if settled(path).is_dir() else read_table(path)


def replay_line(line: Line, options: ReplayOptions) -> None:
    """Replay a line whose recount found nothing; what is wrong becomes findings."""
    from robustbench_dyn.models.machine_errors import is_machine_error  # noqa: PLC0415
    from robustbench_dyn.verification.replay import replay  # noqa: PLC0415  (imports torch)

    if line.row is None or line.evidence is None or line.findings:
        line.notes.append("not replayed, since its recount fails")
        return
    try:
        replayed = replay(line.evidence, options)
    except DynbenchError as error:
        if isinstance(error, MachineError):
            raise
        line.findings.append(Finding("replay", str(error)))
        return
    # The model is foreign code, and may raise anything.
    except Exception as error:
        if is_machine_error(error):
            raise
        said = f"the replay failed: {type(error).__name__}: {error}"
        line.findings.append(Finding("replay", one_line(said)))
        return
    line.findings += replayed.findings
    line.statements += replayed.statements
    line.notes += replayed.notes
