"""The content of the site as plain values: tables of rows, and what each row shows."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from robustbench_dyn.names import file_name
from robustbench_dyn.reporting.leaderboard import format_eps
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from robustbench_dyn.reporting.published import Entry
    from robustbench_dyn.reporting.rows import Row

Values = dict[str, Any]
_SHARES = ("clean", "certified", "empirical", "low", "high", "gap")
_COLUMNS = ("clean_accuracy", "certified_accuracy", "empirical_accuracy", "ci_low", "ci_high")
_COSTS = ("forward_passes", "backward_passes", "seconds")
# One letter an example: a thousand verdicts are a kilobyte in the page of comparisons.
LETTERS = {
    Status.CERTIFIED: "C",
    Status.UNDECIDED: "U",
    Status.BROKEN: "B",
    Status.MISCLASSIFIED: "M",
    Status.ERROR: "E",
}
# What an example counts as that several seeds call differently: the worst of them.
_WORST_FIRST = "EMBUC"
_PROBABILISTIC = "smoothing"


class Line(NamedTuple):
    """A line of a table: the entries of one model on the same images, a seed each."""

    entries: tuple[Entry, ...]
    values: Values


def lines_of(entries: Iterable[Entry]) -> list[Line]:
    """Return a line for each model, weights, suite and set of images; seeds are one line."""
    groups: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        row = entry.row
        names = ("model", "weights_sha256", "suite", "certifiers", "attacks", "open_flags")
        groups[(*_images(row), *(row.get(name) for name in names))].append(entry)
    pages = page_names(str(members[0].row["model"]) for members in groups.values())
    lines = []
    for number, members in enumerate(groups.values()):
        by_seed = tuple(sorted(members, key=lambda entry: entry.row["seed"] or 0))
        values = _values([entry.row for entry in by_seed])
        values |= {"id": number, "page": f"models/{pages[values['model']]}"}
        values["statuses"] = _statuses(by_seed)
        lines.append(Line(by_seed, values))
    _mark_ties(line.values for line in lines)
    return lines


def tables_of(lines: Iterable[Line]) -> list[Values]:
    """Return a table for each data set, norm and eps, with its sets of images, largest first."""
    tables: dict[tuple[str, str, float], list[Values]] = defaultdict(list)
    for line in lines:
        values = line.values
        tables[values["dataset"], values["norm"], values["eps"]].append(values)
    return [
        {
            "dataset": dataset,
            "norm": norm,
            "eps": eps,
            "eps_text": format_eps(eps),
            "id": file_name(dataset, norm, format_eps(eps).replace("/", "_"), suffix=""),
            "sets": _sets(tables[dataset, norm, eps]),
        }
        for dataset, norm, eps in sorted(tables)
    ]


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


def _images(row: Row) -> tuple[object, ...]:
    names = ("dataset", "data_sha256", "norm", "eps", "first_example", "n_examples")
    return tuple(row.get(name) for name in names)


def _sets(rows: Sequence[Values]) -> list[Values]:
    """Return rows by their images: those of most images first, ranked rows before the others."""
    sets: dict[tuple[object, ...], list[Values]] = defaultdict(list)
    for values in rows:
        sets[values["images"]].append(values)
    ordered = sorted(sets.values(), key=lambda part: (-part[0]["n"], -len(part)))
    return [
        {
            "n": part[0]["n"],
            "first": part[0]["first"],
            "data_sha256": part[0]["data_sha256"],
            "ranked": sorted((v for v in part if not v["open_flags"]), key=_order),
            "apart": sorted((v for v in part if v["open_flags"]), key=_order),
        }
        for part in ordered
    ]


def _order(values: Values) -> tuple[object, ...]:
    rank = values["certified_rank"]
    empirical = values["empirical"] or 0.0
    return (rank is None, rank or 0, -values["certified"], -empirical, values["model"])


def _values(rows: Sequence[Row]) -> Values:
    """Return what the rows of one model with different seeds show: means, and their spread."""
    row = rows[0]
    n = row["n_examples"]
    shares = {
        name: _mean(other[column] for other in rows)
        for name, column in zip(_SHARES, _COLUMNS, strict=False)
    }
    shares["low"] = min(other["ci_low"] for other in rows)
    shares["high"] = max(other["ci_high"] for other in rows)
    shares["gap"] = _mean(other["gap"] for other in rows)
    certifiers = [part for part in str(row["certifiers"]).split("+") if part != "none"]
    names = sorted({part.partition("(")[0] for part in certifiers})
    return {
        **shares,
        "model": row["model"],
        "family": row["family"] or "",
        "dataset": row["dataset"],
        "norm": row["norm"],
        "eps": row["eps"],
        "eps_text": format_eps(row["eps"]),
        "n": n,
        "first": row.get("first_example"),
        "data_sha256": row.get("data_sha256") or "",
        "images": _images(row),
        "certified_rank": row.get("certified_rank"),
        "empirical_rank": row.get("empirical_rank"),
        "open_flags": str(row.get("open_flags") or "").split(),
        "flags": str(row["flags"] or "").split(),
        "certifiers": certifiers,
        "certifier_names": names,
        "certificate": _kind(names),
        "suite": row.get("suite") or "custom",
        "attacks": [part for part in str(row["attacks"]).split("+") if part != "none"],
        "added": [part for part in str(row.get("added_attacks") or "").split("+") if part],
        "corrections": row.get("corrections") or "",
        "seeds": [other["seed"] for other in rows],
        "spread": {
            name: (min(shown), max(shown))
            for name, column in (
                ("certified", "certified_accuracy"),
                ("empirical", "empirical_accuracy"),
            )
            if len(rows) > 1
            and (shown := [other[column] for other in rows if other[column] is not None])
        },
        "costs": {name: _mean(other[name] for other in rows) / n for name in _COSTS},
        "parameters": row["parameters"],
        "lipschitz_bound": row["lipschitz_bound"],
        "facts": row,
    }


def _mean(values: Iterable[float | None]) -> Any:
    """Return the mean of the values that are there; None where there is none."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def _kind(certifiers: Sequence[str]) -> str:
    if not certifiers:
        return "none"
    return "probabilistic" if _PROBABILISTIC in certifiers else "deterministic"


def _statuses(entries: Sequence[Entry]) -> str:
    """Return a letter for each example, by its id; the worst of several seeds. "" without them."""
    strings = []
    for entry in entries:
        if entry.evidence is None:
            return ""
        voided = entry.evidence.record.spec.voids_certificates(entry.evidence.flags)
        letters = LETTERS | ({Status.CERTIFIED: "U"} if voided else {})
        strings.append([letters[verdict.status] for verdict in entry.evidence.verdicts])
    return "".join(min(several, key=_WORST_FIRST.index) for several in zip(*strings, strict=True))


def _mark_ties(rows: Iterable[Values]) -> None:
    rows = list(rows)
    for which in ("certified", "empirical"):
        counts = Counter((values["images"], values[f"{which}_rank"]) for values in rows)
        for values in rows:
            rank = values[f"{which}_rank"]
            values[f"{which}_tied"] = rank is not None and counts[values["images"], rank] > 1


def choices(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of each filter, in the order in which it lists them."""
    rows = list(rows)
    return {
        "dataset": sorted({row["dataset"] for row in rows}),
        "norm": sorted({row["norm"] for row in rows}),
        "eps": [(eps, format_eps(eps)) for eps in sorted({row["eps"] for row in rows})],
        "family": sorted({row["family"] for row in rows if row["family"]}),
        "certificate": sorted({row["certificate"] for row in rows}),
        "certifier": sorted({name for row in rows for name in row["certifier_names"]}),
    }
