"""A comparison as sentences and small tables, and as a document for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from robustbench_dyn.reporting.comparison import STATUSES, Comparison, Difference, Share
from robustbench_dyn.reporting.ranking import LEVEL
from robustbench_dyn.results.headings import (
    INTERVAL,
    format_interval,
    format_percent,
    heading,
)

# So many examples that differ are named unless all are wanted.
_FEW = 10
_LEAST_P = 1e-99
_VERBS = {
    "clean_accuracy": "is right on",
    "certified_accuracy": "certifies",
    "empirical_accuracy": "withstands the attacks on",
}


class Grid(NamedTuple):
    """A small table: the first column names its rows, all others are numbers.

    dispensable: headings of columns that a narrow terminal leaves out, the first one first.
    """

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    dispensable: tuple[str, ...]


def told(
    first: str, second: str, comparisons: Sequence[Comparison], *, all_examples: bool = False
) -> Iterator[str | Grid]:
    """Yield the sentences and tables of comparisons; an empty text stands between paragraphs.

    all_examples: name all examples that differ.
    """
    yield f"A: {first}"
    yield f"B: {second}"
    n_tests = sum(len(comparison.differences) for comparison in comparisons)
    for comparison in comparisons:
        yield ""
        yield from _of_one(comparison, all_examples=all_examples)
    yield ""
    yield (
        f"Intervals hold with 95 % confidence each ({INTERVAL}). p: exact two-sided McNemar test "
        "on the examples that one of the two has. Adjusted p: by Holm's correction over the "
        f"{n_tests} tests above; a difference counts where it is at most {LEVEL:g}, and then the "
        f"chance that any such difference is none is at most {100 * LEVEL:g} %."
    )


def document(first: str, second: str, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the comparisons as a document of dicts, lists and numbers, for JSON."""
    return {
        "first": first,
        "second": second,
        "level": LEVEL,
        "comparisons": [
            {
                "dataset": one.dataset,
                "data_sha256": one.data_sha256,
                "norm": one.norm,
                "eps": one.eps,
                "n_examples": one.n,
                "n_examples_first": one.n_first,
                "n_examples_second": one.n_second,
                "verdicts": {
                    str(a): {str(b): one.counts.get((a, b), 0) for b in STATUSES} for a in STATUSES
                },
                "differences": [
                    {
                        "column": d.column,
                        "first": d.first._asdict(),
                        "second": d.second._asdict(),
                        "only_first": list(d.only_first),
                        "only_second": list(d.only_second),
                        "p_value": d.p_value,
                        "adjusted_p_value": d.adjusted,
                        "separated": d.separated,
                    }
                    for d in one.differences
                ],
            }
            for one in comparisons
        ],
    }


def _of_one(comparison: Comparison, *, all_examples: bool) -> Iterator[str | Grid]:
    yield comparison.title
    yield _shared(comparison)
    yield ""
    yield _verdicts(comparison)
    yield ""
    yield _accuracies(comparison.differences)
    yield ""
    for d in comparison.differences:
        yield f"{heading(d.column)}: {_conclusion(d, comparison.n)}"
    for d in comparison.differences:
        for name, ids in (("A", d.only_first), ("B", d.only_second)):
            if ids:
                yield f"Only {name} {_VERBS[d.column]} {_ids(ids, all_examples=all_examples)}"


def _shared(comparison: Comparison) -> str:
    n_first, n_second = comparison.n_first, comparison.n_second
    if comparison.n == n_first == n_second:
        return f"Both have the same {comparison.n} images."
    return (
        f"Compared on the {comparison.n} images that both have; A has {n_first} in all, "
        f"B has {n_second}."
    )


def _verdicts(comparison: Comparison) -> Grid:
    best_first = STATUSES[::-1]
    rows = [
        (f"A {a}", *(str(comparison.counts.get((a, b), 0)) for b in best_first)) for a in best_first
    ]
    headings = tuple(f"B {status}" for status in best_first)
    return Grid(("examples", *headings), rows, headings[:2:-1])


def _accuracies(differences: Sequence[Difference]) -> Grid:
    rows = [
        (
            heading(d.column),
            _share(d.first),
            _share(d.second),
            f"{100 * (d.first.fraction - d.second.fraction):+.1f}",
            str(len(d.only_first)),
            str(len(d.only_second)),
            _p(d.p_value),
        )
        for d in differences
    ]
    headings = ("accuracy", "A", "B", "A - B", "only A", "only B", "p")
    return Grid(headings, rows, ("only B", "only A", "A - B"))


def _conclusion(difference: Difference, n: int) -> str:
    adjusted = f"adjusted p {_p(difference.adjusted, equals='= ')}"
    if not difference.separated:
        return f"these {n} images do not tell A and B apart ({adjusted})."
    better = "A" if difference.first.fraction > difference.second.fraction else "B"
    return f"{better} is better, which chance hardly explains ({adjusted})."


def _ids(ids: Sequence[int], *, all_examples: bool) -> str:
    told = ids if all_examples else ids[:_FEW]
    named = ", ".join(map(str, told))
    more = len(ids) - len(told)
    noun = "example" if len(ids) == 1 else f"{len(ids)} examples"
    return f"{noun}: {named}" + (f" and {more} more" if more else "")


def _share(share: Share) -> str:
    text = f"{format_percent(share.fraction)} {format_interval(share.low, share.high)}"
    # Two intervals of this kind would not fit the width.
    return text.replace("100.0", "100")


def _p(value: float, *, equals: str = "") -> str:
    """Write a p-value; those of thousands of examples may be too small for a float."""
    return f"{equals}{value:.2g}" if value >= _LEAST_P else f"< {_LEAST_P:g}"
