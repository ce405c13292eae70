"""Write the site: render the templates, copy what they load, replace the folder as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from os import PathLike
from pathlib import Path
from typing import Any, Final

from robustbench_dyn.errors import InputError
from robustbench_dyn.files import write_text
from robustbench_dyn.reporting.aggregation import lines
from robustbench_dyn.reporting.folder import check_replaceable, place_of, replacing_folder
from robustbench_dyn.reporting.page.cards import card_of, described
from robustbench_dyn.reporting.page.document import choices, tables_of
from robustbench_dyn.reporting.page.embedded import comparisons, curves, histograms_of
from robustbench_dyn.reporting.page.pictures import BUDGET, finder, pictures
from robustbench_dyn.reporting.page.templates import environment, meaning
from robustbench_dyn.reporting.properties import Findings
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.reported import read_reported, reported_for
from robustbench_dyn.version import __version__

# Lists the files of a site, so that nothing else is ever replaced by one.
MARKER: Final = ".dynbench-page"
# No page loads anything from outside of its folder, and none can send anything. `file:` lets the
# pages work where they are opened from a disk; the chart library sets styles of its own.
POLICY: Final = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file: 'unsafe-inline'; "
    "img-src 'self' file: data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
)

Values = dict[str, Any]


def write_page(
    entries: Sequence[Entry],
    findings: Findings,
    site: Path,
    *,
    tables: Path | None = None,
    title: str = "Leaderboards",
    data_dir: str | PathLike[str] | None = None,
    budget: int = BUDGET,
) -> list[Path]:
    """Write a static site of the entries into a folder, which is replaced as a whole.

    entries: with ranks and open flags in their rows. findings: measured properties of the models.
    tables: the folder whose CSV and Parquet files the site offers for download, and whose
    reported.csv it shows. data_dir: where to look for the data sets whose images are shown. budget:
    characters of images in the page of one model. Returns the paths written. Raises InputError
    where there is no entry, or the folder holds a file that is none of a site; OutputError where it
    cannot be written.
    """
    if tables:
        check_site(site, tables=tables)
    if not entries:
        raise InputError("there is no row to make a page of; publish some by dynbench leaderboard")
    of_tables = tables_of(lines(entries))
    rows = [row for table in of_tables for part in table["parts"] for row in part["rows"]]
    render = _renderer(title, rows)
    reported = read_reported(tables) if tables else []
    places = [(table["dataset"], table["norm"], table["eps"]) for table in of_tables]
    with replacing_folder(site, marker=MARKER) as new:
        _copy_static(new / "static")
        for table, place in zip(of_tables, places, strict=True):
            table["downloads"] = _copy_downloads(tables, table["table"], new / "downloads")
            table["reported"] = reported_for(reported, place)
        pages = {
            "index.html": render(
                "index",
                tables=of_tables,
                choices=choices(rows),
                all_rows=rows,
                n_rows=len(rows),
                reported_elsewhere=[one for one in reported if one.table not in places],
            ),
            "curves.html": render("curves", data=curves(rows)),
            "compare.html": render("compare", data=comparisons(rows)),
        }
        find = finder(data_dir)
        for page, of_model in _by_page(rows).items():
            pages[page] = render(
                "model", root="../", **_model(of_model, findings, find=find, budget=budget)
            )
        for name, text in pages.items():
            write_text(new / name, text)
        written = sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
        write_text(new / MARKER, "".join(f"{path.as_posix()}\n" for path in written))
    return [site / path for path in written]


def check_site(site: Path, *, tables: Path) -> None:
    """Raise InputError where a site of these tables could not be written into a folder."""
    of_tables = place_of(tables)
    if place_of(site) in (of_tables, *of_tables.parents):
        raise InputError(
            f"{site} is or holds the folder of the tables, {tables}; give the page a folder of its "
            "own"
        )
    check_replaceable(site, marker=MARKER)


def _renderer(title: str, rows: Iterable[Values]) -> Any:
    """Return a function that renders a template by its name."""
    templates = environment()
    newest = max(str(row["evaluated_at"] or "") for line in rows for row in line["facts"])
    shared = {"version": __version__, "title": title, "policy": POLICY, "newest": newest[:10]}

    def render(page: str, *, root: str = "", **values: Any) -> str:
        template = templates.get_template(f"{page}.html")
        return template.render(page=page, root=root, **shared, **values)

    return render


def _by_page(rows: Iterable[Values]) -> dict[str, list[Values]]:
    pages: dict[str, list[Values]] = {}
    for row in rows:
        pages.setdefault(row["page"], []).append(row)
    return pages


def _model(rows: Sequence[Values], findings: Findings, *, find: Any, budget: int) -> Values:
    """Return what the page of one model shows; rows: its rows in all tables."""
    facts = [(row["title"], fact) for row in rows for fact in row["facts"]]
    card = described(card_of(rows[0]["model"]), {fact["weights_sha256"] for _, fact in facts})
    measured = {id(one): one for _, fact in facts for one in findings.of(fact)}
    shown = pictures(
        [(row["title"], row["evidence"]) for row in rows if row["evidence"]], find, budget=budget
    )
    kinds = [len(picture["images"]) > 1 for _, several in shown for picture in several]
    return {
        "model": rows[0]["model"],
        "family": rows[0]["family"],
        "rows": rows,
        "card": card,
        "findings": list(measured.values()),
        "flags": _flags(rows),
        "weights": _weights(facts, card),
        "facts": facts,
        "pictures": shown,
        "has_originals": any(kinds),
        "lacks_originals": not all(kinds),
        "data": {"curves": curves(rows), "histograms": histograms_of(rows)},
    }


def _flags(rows: Sequence[Values]) -> list[Values]:
    """Return each kind of flag of a model's rows, with its meaning, tables, and values there."""
    kinds: dict[tuple[str, bool], dict[str, list[str]]] = {}
    for row in rows:
        for flag in dict.fromkeys((*row["open_flags"], *row["flags"])):
            name, _, value = flag.partition(":")
            kind = kinds.setdefault((name, flag in row["open_flags"]), {})
            kind.setdefault(row["title"], []).extend([value] if value else [])
    n_titles = len({row["title"] for row in rows})
    return [
        {
            "name": name,
            "open": is_open,
            "meaning": meaning(name),
            "tables": _places(values, n_titles),
        }
        for (name, is_open), values in kinds.items()
    ]


def _places(values: Mapping[str, Sequence[str]], n_titles: int) -> list[str]:
    """Return the tables in which a flag stands, with the values that it has there."""
    if len(values) == n_titles and not any(values.values()):
        return ["all tables"]
    return [
        f"{title}: {', '.join(dict.fromkeys(of_title))}" if of_title else title
        for title, of_title in values.items()
    ]


def _weights(facts: Iterable[tuple[str, Mapping[str, Any]]], card: Values | None) -> list[Values]:
    """Return the sets of weights behind the rows of a model, with their training."""
    sets: dict[str, Values] = {}
    for _, row in facts:
        sha256 = row["weights_sha256"] or ""
        training = (card or {}).get("training", {}).get(sha256)
        new: Values = {"sha256": sha256, "datasets": {}, "data": {}, "records": {}}
        one = sets.setdefault(sha256, new | {"training": training})
        # Dictionaries keep each value once, in order.
        one["datasets"][row["dataset"]] = None
        for name, value in (("data", row["data_sha256"]), ("records", row["training_record"])):
            if value:
                one[name][value] = None
    return list(sets.values())


def _copy_static(folder: Path) -> None:
    with as_file(files("robustbench_dyn.reporting.page") / "static") as source:
        shutil.copytree(source, folder)


def _copy_downloads(tables: Path | None, name: str, folder: Path) -> list[tuple[str, str]]:
    """Copy the files of a table, where they are; return the name and the address of each."""
    found = []
    for title, suffix in (("CSV", ".csv"), ("Parquet", ".parquet")):
        source = tables / f"{name}{suffix}" if tables else None
        if source is not None and source.is_file():
            folder.mkdir(exist_ok=True)
            shutil.copyfile(source, folder / source.name)
            found.append((title, f"downloads/{source.name}"))
    return found
