"""The command leaderboard: publish rows, withdraw them, and show the tables that ship."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_dyn.cli.options import (
    OUTPUT,
    AsJson,
    DataDir,
    Limited,
    Plugins,
    Quiet,
    Trust,
    require_stores,
)
from robustbench_dyn.cli.output import announce, print_error, print_json, print_result
from robustbench_dyn.errors import InputError
from robustbench_dyn.settings import read_settings

if TYPE_CHECKING:
    from robustbench_dyn.reporting.changes import Change
    from robustbench_dyn.reporting.published import Entry, RowChoice
    from robustbench_dyn.reporting.publishing import Published

# Rows that stay as they are are counted, not listed.
_LISTED = ("added", "replaced", "dropped", "withdrawn")


def leaderboard(
    store: Annotated[
        list[Path] | None,
        typer.Option(
            "--store",
            metavar="FILE|DIR",
            help="SQLite file of verdicts, or a folder of them; several are merged. Also "
            "DYNBENCH_STORE.",
            show_default="dynbench.sqlite",
        ),
    ] = None,
    to: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the tables.", rich_help_panel=OUTPUT)
    ] = Path("leaderboards"),
    add: Annotated[
        bool, typer.Option("--add", help="Keep the rows of the folder that no new row replaces.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Also replace rows of more examples or with certifiers, drop rows that the stores "
            "do not hold, and publish rows that were withdrawn.",
        ),
    ] = False,
    remove: Annotated[
        str, typer.Option(metavar="MODEL", help="Withdraw the rows of a model: NAME or NAME@HASH.")
    ] = "",
    why: Annotated[str, typer.Option(metavar="REASON", help="Why they are withdrawn.")] = "",
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Measure what the models' cards claim; their code is run in here."
        ),
    ] = False,
    adversarial: Annotated[
        int,
        typer.Option(
            "--adversarial-examples",
            metavar="N",
            help="Adversarial examples kept as evidence of a row.",
            min=0,
            rich_help_panel=OUTPUT,
        ),
    ] = 10,
    latex: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the tables for LaTeX, too (.tex).", rich_help_panel=OUTPUT
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="SITE",
            help="Write a page of the tables, too, as a folder that any browser opens. Without "
            "--store, of the tables as they are.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Print the tables that ship with the package.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Write one CSV per data set and threat model, with its evidence, and one page of all."""
    del quiet, plugins, trust, limits  # heeded while the options were read
    from robustbench_dyn.reporting.export import check_export_path

    if published:
        _print_published(as_json=as_json)
        return
    if latex is not None:
        check_export_path(latex, (".tex",))
    if page is not None:
        from robustbench_dyn.reporting.page import check_site

        check_site(page, tables=to)
    if bool(remove) != bool(why):
        raise InputError("--remove MODEL and --why REASON belong together; give both")
    if remove and (store or add or replace):
        raise InputError(
            "--remove withdraws rows of the tables; leave out --store, --add and --replace"
        )
    outcome = None
    if remove:
        outcome = _withdraw(to, remove, why)
    elif store or not (page or latex or check):
        outcome = _publish(store or [read_settings()["store"].value], to, add, replace, adversarial)
    if check:
        outcome = _check(to, outcome)
    extra = [*_write_latex(to, latex), *_write_page(to, page, data_dir)]
    _tell(outcome, extra, as_json=as_json)


def _print_published(*, as_json: bool) -> None:
    from robustbench_dyn.reporting.published import no_row, shipped_entries

    entries = shipped_entries(with_evidence=no_row)
    if as_json:
        print_json({"rows": [entry.row for entry in entries]})
        return
    from robustbench_dyn.cli.leaderboards import print_tables

    print_tables(entries)


def _publish(
    stores: list[Path], to: Path, add: bool, replace: bool, n_adversarial: int
) -> Published:
    from robustbench_dyn.reporting.published import entries_of, refuted_in
    from robustbench_dyn.reporting.publishing import publish
    from robustbench_dyn.results.exchange import merge_stores
    from robustbench_dyn.results.store import Store

    paths = require_stores(stores)
    if len(paths) == 1:
        held = Store(paths[0])
    else:
        held = Store()
        merge_stores(paths, held)
    entries, refuted = entries_of(held, n_adversarial=n_adversarial), refuted_in(held)
    if refuted and not entries:
        raise InputError(
            f"an attack refuted a certificate of {', '.join(refuted)}, and the store holds no "
            "finished run beside"
        )
    published = publish(entries, to, add=add, replace=replace)
    for model in refuted:
        print_error(f"an attack refuted a certificate of {model}; that evaluation has no row")
    return published


def _withdraw(to: Path, model: str, why: str) -> Published:
    from robustbench_dyn.reporting.publishing import withdraw

    return withdraw(to, model, why)


def _check(to: Path, before: Published | None) -> Published:
    """Measure the claims of the models whose weights were not measured yet."""
    from robustbench_dyn.datasets.dataset import is_name_of_files
    from robustbench_dyn.models.loading import import_architecture
    from robustbench_dyn.plugins import find_plugins, is_trusted
    from robustbench_dyn.reporting.properties import measure, read_findings
    from robustbench_dyn.reporting.published import PROPERTIES, no_row, read_folder
    from robustbench_dyn.reporting.publishing import Published, add_findings

    known = {one.weights_sha256 for one in read_findings(to / PROPERTIES).measured}
    rows = [entry.row for entry in read_folder(to, with_evidence=no_row)]
    wanted = {str(row["weights_sha256"]) for row in rows} - known
    pairs = []
    for plugin in find_plugins():
        weights_of = [w for w in plugin.card.weights if w.sha256 in wanted] if plugin.card else []
        if weights_of and not is_trusted(plugin):
            announce(f"{plugin.name} is not measured, since its code would run in here: --trust")
        elif weights_of:
            architecture = import_architecture(plugin)
            for weights in weights_of:
                if is_name_of_files(weights.dataset):
                    why = f"{weights.dataset} lies in files that no name leads to"
                    announce(f"{plugin.name} is not measured, since its data set {why}")
                else:
                    pairs.append((architecture, weights))
    after = add_findings(to, measure(pairs))
    return Published(after.paths, before.changes if before else after.changes)


def _write_latex(to: Path, path: Path | None) -> list[Path]:
    from robustbench_dyn.files import write_text
    from robustbench_dyn.reporting.latex import to_latex
    from robustbench_dyn.reporting.published import no_row

    if path is None:
        return []
    write_text(path, to_latex(_entries_in(to, with_evidence=no_row)))
    return [path]


def _entries_in(folder: Path, *, with_evidence: RowChoice) -> list[Entry]:
    """Return the entries of a folder; raises InputError where it has none."""
    from robustbench_dyn.reporting.published import read_folder

    entries = read_folder(folder, with_evidence=with_evidence)
    if not entries:
        raise InputError(f"{folder} holds no table; write one with: dynbench leaderboard")
    return entries


def _write_page(to: Path, site: Path | None, data_dir: Path | None) -> list[Path]:
    """Write the page of the tables; return the path to open."""
    from robustbench_dyn.reporting.folder import settled
    from robustbench_dyn.reporting.page import write_page
    from robustbench_dyn.reporting.properties import read_findings
    from robustbench_dyn.reporting.published import PROPERTIES, every_row

    if site is None:
        return []
    findings = read_findings(to / PROPERTIES)
    entries = _entries_in(to, with_evidence=every_row)
    write_page(entries, findings, site, tables=settled(to), data_dir=data_dir)
    return [site / "index.html"]


def _tell(outcome: Published | None, extra: list[Path], *, as_json: bool) -> None:
    changes = outcome.changes if outcome else []
    files = [*(outcome.paths if outcome else []), *extra]
    if as_json:
        print_json(
            {
                "changes": [_as_json(change) for change in changes],
                "files": [str(path) for path in files],
            }
        )
        return
    from robustbench_dyn.cli.consoles import note

    for change in changes:
        if change.kind in _LISTED:
            note(_as_line(change))
    counts = Counter(change.kind for change in changes)
    if counts:
        told = ", ".join(f"{kind} {n}" for kind, n in counts.items())
        print_result(f"{told} {'row' if counts.total() == 1 else 'rows'}")
    for path in files:
        print_result(path)


def _as_json(change: Change) -> dict[str, Any]:
    return {"kind": change.kind, "row": change.row, "before": change.before}


def _as_line(change: Change) -> str:
    from robustbench_dyn.reporting.labels import bracket, label

    line = f"{change.kind} {label(change.row)}: {bracket(change.row)}"
    return line if change.before is None else f"{line} (before: {bracket(change.before)})"
