"""HTML of evaluations for notebooks: bracket bars, counts and a table, in light and dark pages.

Text and lines have the colour of the page. All text from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from robustbench_dyn.drawing.figures import LOOKS
from robustbench_dyn.results.curves import CurvePoint
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.summary import count_statuses
from robustbench_dyn.results.telling import (
    bracket_of,
    notes_of,
    table_of,
    threat_model_of,
    title_of,
)
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from robustbench_dyn.drawing.evaluated import Evaluated

# In units of the bar's own coordinates.
_WIDTH: Final = 600
_BAR: Final = 22
# A segment with room for its number.
_WIDE: Final = 26
_COLOURS: Final = {status: look.colour for status, look in LOOKS.items()} | {
    Status.MISCLASSIFIED: "none"
}
_INK: Final = {Status.UNDECIDED: "#000", Status.MISCLASSIFIED: "currentColor"}
# Of the picture of a curve, and the colour between its lines, in light and in dark pages.
_CURVE: Final = (420, 150)
_BAND: Final = "#4A7FB5"


def evaluations_html(evaluations: Sequence[Evaluated]) -> str:
    """Return a bar and a row for each evaluation of one model, and the notes below the table."""
    headings, rows = table_of(evaluations)
    return _page(
        title_of(evaluations[0].summary),
        *map(_bar, evaluations),
        _legend(),
        _table(headings, rows),
        *map(_note, notes_of(evaluations)),
    )


def curve_html(evaluation: Evaluated, points: Sequence[CurvePoint]) -> str:
    """Return the two lines of a curve as a small picture, and the notes below it."""
    return _page(
        f"{title_of(evaluation.summary)}, {evaluation.threat_model.norm}",
        _curve(points),
        _note("over eps, solid: certified accuracy; dashed: empirical accuracy"),
        *map(_note, notes_of([evaluation], curve=True)),
    )


def _page(title: str, *parts: str) -> str:
    style = "max-width:640px;line-height:1.5;color:inherit"
    return f'<div style="{style}"><div><b>{escape(title)}</b></div>{"".join(parts)}</div>'


def _note(text: str) -> str:
    return f'<div style="font-size:90%">{escape(text)}</div>'


def _bar(evaluation: Evaluated) -> str:
    """Draw the examples of each status, with the bracket of the robust accuracy above them."""
    counts, n = count_statuses(evaluation.verdicts), len(evaluation.verdicts)
    row, told = evaluation.summary, bracket_of(evaluation)
    upper = row["empirical_accuracy"]
    if upper is None:
        upper = row["clean_accuracy"]
    ends = (row["certified_accuracy"] * _WIDTH, upper * _WIDTH)
    bracket = "".join(f'<path d="M{x:.1f} 6v6" />' for x in ends)
    bracket += f'<path d="M{ends[0]:.1f} 9H{ends[1]:.1f}" />'
    return (
        f"<div>{escape(threat_model_of(evaluation))}: {escape(told)}</div>"
        f'<svg viewBox="-2 0 {_WIDTH + 4} {_BAR + 16}" style="width:100%;max-width:{_WIDTH}px" '
        f'role="img" aria-label="{escape(told)}">'
        f'<g stroke="currentColor" stroke-width="2">{bracket}</g>{"".join(_segments(counts, n))}'
        "</svg>"
    )


def _segments(counts: dict[Status, int], n: int) -> Iterator[str]:
    left = 0.0
    for status in LOOKS:
        width = _WIDTH * counts[status] / n
        if not width:
            continue
        yield (
            f'<rect x="{left:.1f}" y="14" width="{width:.1f}" height="{_BAR}" '
            f'fill="{_COLOURS[status]}" stroke="currentColor"><title>{status} {counts[status]}'
            "</title></rect>"
        )
        if width > _WIDE:
            yield (
                f'<text x="{left + width / 2:.1f}" y="{14 + _BAR - 7}" text-anchor="middle" '
                f'font-size="12" fill="{_INK.get(status, "#fff")}">{counts[status]}</text>'
            )
        left += width


def _legend() -> str:
    square = "display:inline-block;width:.8em;height:.8em;border:1px solid;margin-right:.3em"
    entries = (
        f'<span style="margin-right:1.2em;white-space:nowrap">'
        f'<span style="{square};background:{colour}"></span>{status}</span>'
        for status, colour in ((status, _COLOURS[status]) for status in LOOKS)
    )
    return f'<div style="font-size:90%">{"".join(entries)}</div>'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    style = "text-align:right;white-space:nowrap;padding:2px 6px;border-bottom:1px solid"
    head = "".join(f'<th style="{style}">{escape(text)}</th>' for text in headings)
    lines = ("".join(f'<td style="{style}">{escape(text)}</td>' for text in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        '<table style="border-collapse:collapse;color:inherit;font-size:90%;margin:.4em 0">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _curve(points: Sequence[CurvePoint]) -> str:
    width, height = _CURVE
    last = points[-1].eps or 1.0
    xs = [width * point.eps / last for point in points]
    low = [height * (1 - point.certified_accuracy) for point in points]
    high = [height * (1 - point.empirical_accuracy) for point in points]
    # Between two radii: certified as at the larger one, empirical as at the smaller one.
    upper = "".join(f"H{x:.1f}V{y:.1f}" for x, y in zip(xs[1:], high[1:], strict=True))
    lower = "".join(f"V{y:.1f}H{x:.1f}" for x, y in zip(xs[1:], low[1:], strict=True))
    back = "".join(f"H{x:.1f}V{y:.1f}" for x, y in zip([*xs[-2::-1]], [*low[-2::-1]], strict=True))
    area = f"M0 {high[0]:.1f}{upper}V{low[-1]:.1f}{back}Z"
    line = 'fill="none" stroke="currentColor"'
    return (
        f'<svg viewBox="-44 -10 {width + 60} {height + 34}" style="width:100%;max-width:{width}px" '
        'role="img" aria-label="certified and empirical accuracy over eps">'
        f'<path d="M0 0V{height}H{width}" {line} stroke-width="0.8"/>'
        f'<path d="{area}" fill="{_BAND}" fill-opacity="0.4"/>'
        f'<path d="M0 {high[0]:.1f}{upper}" {line} stroke-dasharray="5 3" stroke-width="1.5"/>'
        f'<path d="M0 {low[0]:.1f}{lower}" {line} stroke-width="1.5"/>'
        '<g fill="currentColor" font-size="11"><g text-anchor="end">'
        f'<text x="-5" y="4">100 %</text><text x="-5" y="{height + 4}">0 %</text></g>'
        f'<text x="0" y="{height + 15}">0</text>'
        f'<text x="{width}" y="{height + 15}" text-anchor="end">'
        f"{format_eps(last, digits=3)}</text></g></svg>"
    )
