"""Data for the script of a page: curves over eps, histograms, verdicts of each example."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from robustbench_dyn.reporting.page.histograms import histogram

Values = dict[str, Any]
Rows = Iterable[Mapping[str, Any]]
# Digits of a fraction: more than tables show, so that both round the same number.
_DIGITS = 7


def curves(rows: Rows) -> list[Values]:
    """Return accuracies over eps: a panel for each data set and norm, a curve for each model.

    A point is [eps, certified, empirical or None, examples, eps as text]; eps 0 stands for the
    clean accuracy. Curves are of the same weights and attacks.
    """
    panels: dict[tuple[str, str], dict[tuple[object, ...], Values]] = {}
    for row in rows:
        panel = panels.setdefault((row["dataset"], row["norm"]), {})
        key = (row["label"], row["suite"], row["n"], row["first"])
        curve = panel.setdefault(
            key, {"model": row["model"], "label": row["label"], "suite": row["suite"], "points": []}
        )
        clean = _rounded(row["clean"])
        if not curve["points"]:
            curve["points"].append([0, clean, clean, row["n"], "0"])
        certified, empirical = _rounded(row["certified"]), _rounded(row["empirical"])
        curve["points"].append([row["eps"], certified, empirical, row["n"], row["eps_text"]])
    return [
        {"dataset": dataset, "norm": norm, "curves": list(panel.values())}
        for (dataset, norm), panel in panels.items()
    ]


def histograms_of(rows: Rows) -> list[Values]:
    """Return the histograms behind the rows that have evidence; of several seeds, the first's."""
    made = ((row["title"], histogram(row["evidence"])) for row in rows if row["evidence"])
    return [{"title": title} | content for title, content in made if content]


def comparisons(rows: Rows) -> list[Values]:
    """Return what the comparison of two models needs of each row: shares, and verdicts as letters.

    Rows of equal `images` can be compared, example by example, from `first` on.
    """
    numbers: dict[object, int] = {}
    return [
        {
            "model": row["model"],
            "label": row["label"],
            "page": row["page"],
            "title": row["title"],
            "suite": row["suite"],
            "images": numbers.setdefault(row["images"], len(numbers)),
            "first": row["first"],
            "n": row["n"],
            "statuses": row["statuses"],
            "rank": row["certified_rank"],
            **{
                name: _rounded(row[name])
                for name in ("clean", "certified", "empirical", "low", "high")
            },
        }
        for row in rows
    ]


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, _DIGITS)
