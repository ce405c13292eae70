"""The layout of tables: which columns fit a terminal, how wide they are, and the lines of text.

A terminal gets a table of its width: long texts wrap, the columns of the least importance are left
out, and where even the essential ones do not fit, each row becomes a paragraph of all its values.
A pipe gets every column, one line a row, and two blanks or more between two cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from robustbench_dyn.results.headings import NOTHING

# Of a column that no terminal is too narrow for.
ESSENTIAL = math.inf
_BETWEEN = "  "
# A column that wraps is no narrower, unless its longest cell is.
_NARROWEST_TEXT = 24
# Rich needs a console to wrap a text; its width and its stream are not used.
_WRAPPING = Console(width=80, markup=False, emoji=False)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    importance: in a terminal too narrow for all columns, that of the least importance is left out
    first. right: cells are aligned at the right, as numbers are. wraps: its texts may take several
    lines; any other cell is kept in one line, since names are neither cut nor broken.
    """

    heading: str
    importance: float = ESSENTIAL
    right: bool = False
    wraps: bool = False


class Layout(NamedTuple):
    """Lines of a table; n_heading: how many of them are headings; left_out: headings not shown.

    width: that shows all columns.
    """

    lines: list[str]
    n_heading: int
    left_out: list[str]
    width: int


def as_columns(columns: Sequence[Column | str]) -> list[Column]:
    """Return columns; a text stands for the essential column with this heading."""
    return [Column(column) if isinstance(column, str) else column for column in columns]


def for_pipe(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Layout:
    """Lay out all columns, with one line a row: two blanks or more separate its cells."""
    cells = _filled(rows)
    widths = [_widest(column.heading, texts) for column, texts in _with_cells(columns, cells)]
    lines = [_joined(columns, widths, row) for row in ([c.heading for c in columns], *cells)]
    return Layout(lines, 1, [], 0)


def for_terminal(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, *, rule: str = "─"
) -> Layout:
    """Lay out what fits a terminal of this width; rule: the character under the headings."""
    cells = _filled(rows)
    least = [_least_width(column, texts) for column, texts in _with_cells(columns, cells)]
    kept = list(range(len(columns)))
    while _total([least[k] for k in kept]) > width:
        droppable = [k for k in kept if columns[k].importance < ESSENTIAL]
        if not droppable:
            return _as_paragraphs(columns, cells, width)
        # Of equals, the last one.
        kept.remove(min(droppable, key=lambda k: (columns[k].importance, -k)))
    shown = [columns[k] for k in kept]
    texts = [[row[k] for k in kept] for row in cells]
    natural = [_widest(column.heading, each) for column, each in _with_cells(shown, texts)]
    widths = _grown(shown, [least[k] for k in kept], natural, width)
    heading = _wrapped_row(shown, widths, [column.heading for column in shown])
    body = [line for row in texts for line in _wrapped_row(shown, widths, row)]
    ruled = rule * _total(widths)
    left_out = [c.heading for k, c in enumerate(columns) if k not in kept]
    return Layout([*heading, ruled, *body], len(heading), left_out, _total(least))


def wrapped(text: str, width: int, *, indent: str = "") -> list[str]:
    """Return a text in lines of at most this width; the lines after the first are indented.

    Words are kept whole where they fit a line.
    """
    width = max(width, len(indent) + 1)
    if cell_len(text) <= width:
        return [text]
    first, *rest = _wrap(text, width)
    if not rest:
        return [first]
    remaining = text[len(first) :].lstrip()
    return [first, *(indent + line for line in _wrap(remaining, width - len(indent)))]


def _wrap(text: str, width: int) -> list[str]:
    lines = Text(text).wrap(_WRAPPING, max(1, width), overflow="fold")
    return [line.plain.rstrip() for line in lines] or [""]


def _filled(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Put a dash into empty cells: programs that split a line count its cells."""
    return [[cell or NOTHING for cell in row] for row in rows]


def _with_cells(
    columns: Sequence[Column], rows: Sequence[Sequence[str]]
) -> list[tuple[Column, list[str]]]:
    return [(column, [row[k] for row in rows]) for k, column in enumerate(columns)]


def _widest(heading: str, texts: Sequence[str]) -> int:
    return max(map(cell_len, (heading, *texts)))


def _least_width(column: Column, texts: Sequence[str]) -> int:
    """Return the width below which a column is not shown; headings wrap between words."""
    of_heading = max(map(cell_len, column.heading.split()), default=0)
    widest = max(map(cell_len, texts), default=0)
    return max(of_heading, min(widest, _NARROWEST_TEXT) if column.wraps else widest)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_BETWEEN) * (len(widths) - 1)


def _grown(
    columns: Sequence[Column], least: Sequence[int], natural: Sequence[int], width: int
) -> list[int]:
    """Give the room that is left to columns that can use it: headings first, then long texts."""
    widths, room = list(least), width - _total(least)
    for wraps in (False, True):
        growing = [k for k, column in enumerate(columns) if column.wraps is wraps]
        while room and (growing := [k for k in growing if widths[k] < natural[k]]):
            narrowest = min(growing, key=lambda k: widths[k])
            widths[narrowest] += 1
            room -= 1
    return widths


def _wrapped_row(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> list[str]:
    parts = [_wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
    height = max(map(len, parts))
    padded = [[*lines, *[""] * (height - len(lines))] for lines in parts]
    return [_joined(columns, widths, [lines[k] for lines in padded]) for k in range(height)]


def _joined(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    cells = []
    for column, width, cell in zip(columns, widths, row, strict=True):
        blanks = " " * (width - cell_len(cell))
        cells.append(blanks + cell if column.right else cell + blanks)
    return _BETWEEN.join(cells).rstrip()


def _as_paragraphs(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Layout:
    lines = list[str]()
    for row in rows:
        if lines:
            lines.append("")
        for column, cell in zip(columns, row, strict=True):
            label = f"{column.heading}: " if column.heading else ""
            lines += wrapped(label + cell, width, indent=_BETWEEN)
    return Layout(lines, 0, [], 0)
