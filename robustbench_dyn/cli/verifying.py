"""The command verify: whether the rows of tables hold, and what a submitted image changes."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_dyn.cli.options import (
    MODEL,
    OUTPUT,
    AsJson,
    DataDir,
    Device,
    Limited,
    Plugins,
    Quiet,
    Trust,
    WeightsFile,
    check_device,
    seed_option,
)
from robustbench_dyn.cli.output import announce, print_json
from robustbench_dyn.datasets import dataset_info
from robustbench_dyn.datasets.forms import is_form, usages
from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.models.sources import is_from_source
from robustbench_dyn.results.headings import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robustbench_dyn.verification.corrections import RowAssessed
    from robustbench_dyn.verification.findings import Report
    from robustbench_dyn.verification.options import ReplayOptions

_LONGEST_SOURCE = 200
_LARGEST_SAMPLE = 10**6
# Rows of which only the line is printed, where nothing is wrong with them.
_INDENT = "    "


def verify(
    path: Annotated[
        Path, typer.Argument(metavar="FILE.csv|FOLDER", help="A table, or a folder of tables.")
    ],
    replay: Annotated[
        bool, typer.Option("--replay", help="Run the model of each row on a sample of examples.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Run the model of each row on all of its examples.")
    ] = False,
    sample: Annotated[
        int,
        typer.Option(
            metavar="N", help="Examples of each row that --replay certifies and attacks again."
        ),
    ] = 50,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Rows of NAME, or NAME@HASH, alone; HASH: of the weights. A model from a file is "
            "loaded from it: module:FILE.py:FUNCTION.",
        ),
    ] = "",
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="FILES",
            help="Files of the images of rows about files of one's own, as npz:FILE.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    weights: WeightsFile = None,
    seed: Annotated[
        int | None, seed_option("the sample and the attacks", default="a fresh one, printed")
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Adversarial examples (.npz) against a row, to be assessed."
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Who found them, and where: for the corrected row."),
    ] = "",
    correct: Annotated[
        bool, typer.Option("--correct", help="Write what --evidence changes into the tables.")
    ] = False,
    keep: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder for counterexamples that a replay finds.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("counterexamples"),
    device: Device = "cpu",
    as_json: AsJson = False,
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Recount published rows from their evidence, or replay them; exit 1 where one fails."""
    del quiet, trust, limits  # heeded while the options were read
    _check_options(
        replay=replay,
        full=full,
        sample=sample,
        evidence=evidence,
        correct=correct,
        data_dir=data_dir,
    )
    if dataset is not None:
        _open_files(dataset, data_dir)
    if correct and not source.strip():
        raise InputError("a corrected row names its source; give --source 'NAME, WHERE'")
    if len(source) > _LONGEST_SOURCE:
        raise InputError(f"--source is longer than {_LONGEST_SOURCE} characters")
    fresh = secrets.randbelow(2**31) if seed is None else seed
    where, options = check_device(device) if device != "cpu" else device, None
    if replay or full or evidence is not None:
        from robustbench_dyn.verification.options import ReplayOptions

        options = ReplayOptions(
            sample=None if full else sample,
            seed=fresh,
            plugins=tuple(plugins or ()),
            data_dir=data_dir,
            device=where,
            keep=keep,
            model=_model_to_load(model, weights),
            weights=weights,
        )
    elif weights is not None:
        raise InputError("--weights is for --replay, --full and --evidence, which run the model")
    if evidence is not None and options is not None:
        _assess(path, evidence, options, source=source, write=correct, as_json=as_json)
        return
    from robustbench_dyn.verification.tables import verify as verify_tables

    reports = verify_tables(
        path, model=model, replay=options, data_dir=data_dir, progress=_progress
    )
    _tell(reports, seed=fresh if options is not None else None, as_json=as_json)
    if not all(report.holds for report in reports):
        raise typer.Exit(1)


def _check_options(
    *,
    replay: bool,
    full: bool,
    sample: int,
    evidence: Path | None,
    correct: bool,
    data_dir: Path | None,
) -> None:
    if data_dir is not None and not data_dir.is_dir():
        raise InputError(f"--data-dir {data_dir} is no folder; give one that holds the data sets")
    if not 1 <= sample <= _LARGEST_SAMPLE:
        raise InputError(f"sample={sample} must lie between 1 and {_LARGEST_SAMPLE:,}")
    if replay and full:
        raise InputError("--full replays all examples; give it without --replay")
    if evidence is not None and (replay or full):
        raise InputError("--evidence assesses images alone; give it without --replay and --full")
    if correct and evidence is None:
        raise InputError("--correct writes what images change; give them by --evidence FILE.npz")


def _model_to_load(model: str, weights: Path | None) -> str:
    """Return the model that the user names by its source, checked, and "" for any other name."""
    from robustbench_dyn.models.loading import check_model

    if is_from_source(model):
        check_model(model, dataset="", weights=weights)
        return model
    if weights is not None:
        raise InputError(
            f"--weights {weights} is for a model that is named by its source; give it by --model, "
            "as module:FILE.py:FUNCTION"
        )
    return ""


def _open_files(dataset: str, data_dir: Path | None) -> None:
    """Open files of images, so that they are known by their name in rows."""
    if not is_form(dataset):
        raise InputError(
            f"--dataset {shown(dataset)} names no files; give {usages()}. Other data sets are "
            "found by the name in the row"
        )
    dataset_info(dataset, data_dir=data_dir)


def _progress(place: str, number: int, total: int) -> None:
    announce(f"replaying row {number} of {total}: {place}")


def _tell(reports: Sequence[Report], *, seed: int | None, as_json: bool) -> None:
    wrong = [report for report in reports if not report.holds]
    if as_json:
        about = {"seed": seed, "rows": [r.to_json() for r in reports], "holds": not wrong}
        print_json(about)
        return
    for report in reports:
        _tell_row(report)
    n = len(reports)
    told = f"{counted(n, 'row')} verified by {reports[0].depth.value}: "
    if wrong:
        told += f"{len(wrong)} {'does' if len(wrong) == 1 else 'do'} not hold"
    else:
        told += "it holds" if n == 1 else "all hold"
    if seed is not None:
        told += f" (--seed {seed} repeats it)"
    _say(told)


def _tell_row(report: Report) -> None:
    verdict = "holds" if report.holds else "FAILS"
    _say(f"{verdict}  {report.row or report.place}")
    for finding in report.findings:
        _say(f"{finding.check}: {finding.message}", indent=_INDENT)
    if report.findings:
        _say(f"at {report.place}", indent=_INDENT)
    for line in (*report.statements, *(f"note: {note}" for note in report.notes)):
        _say(line, indent=_INDENT)


def _say(text: str, *, indent: str = "") -> None:
    from robustbench_dyn.cli.consoles import note

    note(text, indent=indent)


def _assess(
    path: Path,
    file: Path,
    options: ReplayOptions,
    *,
    source: str,
    write: bool,
    as_json: bool,
) -> None:
    """Assess submitted images, and correct the tables if the user wants it."""
    from robustbench_dyn.verification.corrections import apply, assess, summary
    from robustbench_dyn.verification.submissions import read_submission
    from robustbench_dyn.verification.tables import entries_to_correct

    submission = read_submission(file)
    assessed = assess(submission, entries_to_correct(path), options)
    changed = [row for row in assessed if row.with_effect("breaks", "refutes", "nearer")]
    if write and changed:
        folder = path if path.is_dir() else path.parent
        apply(changed, folder, source=" ".join(source.split()))
    refuted = any(row.with_effect("refutes") for row in assessed)
    if as_json:
        rows = [_assessed(row) for row in assessed]
        print_json({"rows": rows, "written": bool(write and changed), "refuted": refuted})
    else:
        for row in assessed:
            _say(summary(row))
            for assessment in row.assessments:
                said = f"example {assessment.example_id} {assessment.effect}: {assessment.message}"
                _say(said, indent=_INDENT)
        if changed:
            _say(_what_changes(changed, written=write))
    # A published certificate that is wrong is more than a correction.
    if refuted:
        raise typer.Exit(1)


def _assessed(row: RowAssessed) -> dict[str, Any]:
    known = {name: row.entry.row[name] for name in ("model", "dataset", "norm", "eps", "seed")}
    assessments = [
        {
            "example_id": one.example_id,
            "effect": one.effect,
            "message": one.message,
            "distance": one.hit.distance if one.hit is not None else None,
        }
        for one in row.assessments
    ]
    return known | {"assessments": assessments}


def _what_changes(changed: Sequence[RowAssessed], *, written: bool) -> str:
    gone = sum(bool(row.with_effect("refutes")) for row in changed)
    parts = []
    if gone < len(changed):
        parts.append(f"{counted(len(changed) - gone, 'row')} corrected")
    if gone:
        parts.append(f"{counted(gone, 'row')} withdrawn")
    told = " and ".join(parts)
    return told if written else f"with --correct: {told}"
