"""The content of the site as plain values: tables of rows, and what each row shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from robustbench_dyn.names import file_name
from robustbench_dyn.reporting.aggregation import Line, Spread, TableLines
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.verdicts import Status

Values = dict[str, Any]
# One letter an example: a thousand verdicts are a kilobyte in the page of comparisons.
_LETTERS = {
    Status.CERTIFIED: "C",
    Status.UNDECIDED: "U",
    Status.BROKEN: "B",
    Status.MISCLASSIFIED: "M",
    Status.ERROR: "E",
}
# An example counts as the worst of what several seeds found.
_WORST_FIRST = "EMBUC"
_PROBABILISTIC = "smoothing"
_COSTS = ("forward_passes", "backward_passes", "seconds")


def tables_of(tables: Sequence[TableLines]) -> list[Values]:
    """Return the tables with their rows: the ranked ones, those on other images, the others.

    Each row has an `id`, unique among all tables, and the file name of its model's page.
    """
    pages = page_names(str(line.row["model"]) for table in tables for line in table.lines)
    made, n_rows = list[Values](), 0
    for table in tables:
        eps_text = format_eps(table.eps)
        name = file_name(table.dataset, table.norm, eps_text.replace("/", "_"), suffix="")
        common = {
            "table": name,
            "title": table.title,
            "dataset": table.dataset,
            "norm": table.norm,
            "eps": table.eps,
            "eps_text": eps_text,
        }
        parts = list[Values]()
        for kind, images, lines in _parts(table):
            rows = []
            for line in lines:
                about = {"id": n_rows, "page": f"models/{pages[str(line.row['model'])]}"}
                rows.append(_values(line) | common | about)
                n_rows += 1
            parts.append({"kind": kind, "images": images, "rows": rows})
        made.append(common | {"parts": parts})
    return made


def page_names(models: Iterable[str]) -> dict[str, str]:
    """Return the file name of each model's page; no two are equal on a system that folds case."""
    names: dict[str, str] = {}
    taken = set[str]()
    for model in sorted(set(models)):
        name = file_name(model, suffix=".html")
        if name.casefold() in taken:
            digest = hashlib.sha256(model.encode()).hexdigest()[:8]
            name = file_name(model, digest, suffix=".html")
        taken.add(name.casefold())
        names[model] = name
    return names


def choices(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of each filter, in the order in which it lists them."""
    rows = list(rows)
    return {
        "dataset": sorted({row["dataset"] for row in rows}),
        "norm": sorted({row["norm"] for row in rows}),
        "eps": [format_eps(eps) for eps in sorted({row["eps"] for row in rows})],
        "family": sorted({row["family"] for row in rows if row["family"]}),
        "certificate": sorted({row["certificate"] for row in rows}),
        "certifier": sorted({name for row in rows for name in row["certifier_names"]}),
    }


def _parts(table: TableLines) -> Iterable[tuple[str, Any, Sequence[Line]]]:
    """Yield the parts of a table: ranked, a part for each set of other images, not ranked."""
    if table.ranked:
        yield "ranked", table.images, table.ranked
    for images, lines in groupby(table.other_images, key=lambda line: line.images):
        yield "other", images, list(lines)
    if table.not_ranked:
        yield "apart", None, table.not_ranked


def _values(line: Line) -> Values:
    """Return what a line shows, as numbers and texts."""
    row = line.row
    certifiers = _joined(row["certifiers"])
    names = sorted({name.partition("(")[0] for name in certifiers})
    return {
        "model": row["model"],
        "label": line.label,
        "family": row["family"] or "",
        "n": line.images.n_examples,
        "first": line.images.first_example,
        "images": line.images,
        "clean": line.clean.mean,
        "certified": line.certified.mean,
        "empirical": line.empirical.mean if line.empirical else None,
        "gap": line.gap.mean if line.gap else None,
        "low": line.interval[0],
        "high": line.interval[1],
        "spread": {
            name: [spread.least, spread.most]
            for name, spread in (("certified", line.certified), ("empirical", line.empirical))
            if isinstance(spread, Spread) and spread.least < spread.most
        },
        "seeds": line.seeds,
        "certified_rank": line.certified_rank,
        "empirical_rank": line.empirical_rank,
        "certified_tied": line.certified_tied,
        "empirical_tied": line.empirical_tied,
        "open_flags": line.open_flags,
        "flags": str(row["flags"] or "").split(),
        "corrections": line.corrections,
        "certifiers": certifiers,
        "certifier_names": names,
        "certificate": _kind(names),
        "suite": row.get("suite") or "custom",
        "attacks": _joined(row["attacks"]),
        "added": _joined(row.get("added_attacks") or ""),
        "costs": {name: getattr(line, name) for name in _COSTS},
        "parameters": row["parameters"],
        "lipschitz_bound": row["lipschitz_bound"],
        "facts": [entry.row for entry in line.entries],
        "statuses": _statuses(line.entries),
        "evidence": line.entries[0].evidence,
    }


def _joined(names: str) -> list[str]:
    return [name for name in names.split("+") if name not in ("", "none")]


def _kind(certifiers: Sequence[str]) -> str:
    if not certifiers:
        return "none"
    return "probabilistic" if _PROBABILISTIC in certifiers else "deterministic"


def _statuses(entries: Sequence[Entry]) -> str:
    """Return a letter for each example, in their order; empty where evidence is missing."""
    of_seeds = []
    for entry in entries:
        if entry.evidence is None:
            return ""
        is_function = not entry.evidence.record.spec.voids_certificates(entry.evidence.flags)
        letters = _LETTERS if is_function else _LETTERS | {Status.CERTIFIED: "U"}
        of_seeds.append([letters[verdict.status] for verdict in entry.evidence.verdicts])
    return "".join(min(seeds, key=_WORST_FIRST.index) for seeds in zip(*of_seeds, strict=True))
