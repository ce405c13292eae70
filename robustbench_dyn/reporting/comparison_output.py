"""A comparison as plain text of 80 columns, and as a document for JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from robustbench_dyn.reporting.comparison import STATUSES, Comparison, Difference, Share
from robustbench_dyn.reporting.ranking import LEVEL
from robustbench_dyn.results.headings import (
    INTERVAL,
    format_interval,
    format_percent,
    heading,
)

_WIDTH = 80
# So many examples that differ are named unless all are wanted.
_FEW = 10
_LEAST_P = 1e-99
_VERBS = {
    "clean_accuracy": "is right on",
    "certified_accuracy": "certifies",
    "empirical_accuracy": "withstands the attacks on",
}


def to_text(
    first: str, second: str, comparisons: Sequence[Comparison], *, all_examples: bool = False
) -> list[str]:
    """Return the lines of the comparisons; all_examples: name all examples that differ."""
    lines = [*_wrapped(f"A: {first}"), *_wrapped(f"B: {second}")]
    n_tests = sum(len(comparison.differences) for comparison in comparisons)
    for comparison in comparisons:
        lines += ["", *_of_one(comparison, all_examples=all_examples)]
    lines += [
        "",
        *_wrapped(
            f"Intervals hold with 95 % confidence each ({INTERVAL}). p: exact two-sided McNemar "
            f"test on the examples that one of the two has. Adjusted p: by Holm's correction over "
            f"the {n_tests} tests above; a difference counts where it is at most {LEVEL:g}, and "
            f"then the chance that any such difference is none is at most {100 * LEVEL:g} %."
        ),
    ]
    return lines


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


def _of_one(comparison: Comparison, *, all_examples: bool) -> Iterator[str]:
    yield comparison.title
    yield from _wrapped(_shared(comparison))
    yield ""
    yield from _verdict_table(comparison)
    yield ""
    yield f"{'':<11} {'A':>17} {'B':>17} {'A - B':>6} {'only A':>6} {'only B':>6} {'p':>7}"
    for d in comparison.differences:
        points = f"{100 * (d.first.fraction - d.second.fraction):+.1f}"
        yield (
            f"{heading(d.column):<11} {_share(d.first):>17} {_share(d.second):>17} {points:>6} "
            f"{len(d.only_first):>6} {len(d.only_second):>6} {_p(d.p_value):>7}"
        )
    yield ""
    for d in comparison.differences:
        yield from _wrapped(f"{heading(d.column)}: {_conclusion(d, comparison.n)}")
    for d in comparison.differences:
        for name, ids in (("A", d.only_first), ("B", d.only_second)):
            if ids:
                told = _ids(ids, all_examples=all_examples)
                yield from _wrapped(f"Only {name} {_VERBS[d.column]} {told}")


def _shared(comparison: Comparison) -> str:
    n_first, n_second = comparison.n_first, comparison.n_second
    if comparison.n == n_first == n_second:
        return f"Both have the same {comparison.n} images."
    return (
        f"Compared on the {comparison.n} images that both have; A has {n_first} in all, "
        f"B has {n_second}."
    )


def _verdict_table(comparison: Comparison) -> Iterator[str]:
    best_first = STATUSES[::-1]
    headings = [f"B {status}" for status in best_first]
    yield " " * 15 + "".join(f"  {name}" for name in headings)
    for a in best_first:
        counts = (comparison.counts.get((a, b), 0) for b in best_first)
        cells = (f"  {n:>{len(name)}}" for n, name in zip(counts, headings, strict=True))
        yield f"{f'A {a}':<15}{''.join(cells)}"


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


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
