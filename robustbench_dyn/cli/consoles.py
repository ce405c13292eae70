"""Tables, notes and consoles that print texts as they are: a model called "[/b]" is no markup."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from robustbench_dyn.cli.layout import (
    ESSENTIAL,
    Column,
    Layout,
    as_columns,
    for_pipe,
    for_terminal,
    wrapped,
)
from robustbench_dyn.cli.output import is_quiet, print_result, results, write_results
from robustbench_dyn.errors import printable

__all__ = [
    "ESSENTIAL",
    "Column",
    "line",
    "note",
    "print_text",
    "space",
    "stderr",
    "table",
    "text",
]


def stderr() -> Console:
    """Return a console that prints progress and messages, and nothing with --quiet."""
    return Console(stderr=True, markup=False, emoji=False, quiet=is_quiet())


def line(content: object) -> str:
    """Return a text in one line, with its control characters escaped."""
    return printable(" ".join(str(content).split()))


def text(content: object) -> Text:
    """Return a cell, title or status that rich prints as it is."""
    return Text(line(content))


def print_text(console: Console, content: str) -> None:
    """Print a message in one line, however long."""
    console.print(text(content), soft_wrap=True)


def table(
    columns: Sequence[Column | str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    instead: str = "a pipe",
) -> None:
    """Print a table as a result: in a terminal as wide as it is, in a pipe one line a row.

    columns: a text stands for an essential column. rows: of each, one text a column. title: a line
    above it. instead: what shows columns that the terminal is too narrow for, such as "--json".
    """
    console, laid_out = _stdout(), [*map(_one_line, as_columns(columns))]
    cells = [[*map(line, row)] for row in rows]
    note(title)
    if not console.is_terminal:
        for each in for_pipe(laid_out, cells).lines:
            print_result(each)
        return
    rule = "-" if console.options.ascii_only else "─"
    layout = for_terminal(laid_out, cells, console.width, rule=rule)
    _print_layout(console, layout)
    if layout.left_out:
        ways = f"a terminal of {layout.width} columns, or {instead}, shows"
        what = "it" if len(layout.left_out) == 1 else "them"
        note(f"not shown: {', '.join(layout.left_out)}; {ways} {what}")


def note(content: str, *, indent: str = "") -> None:
    """Print a sentence as a result: wrapped in a terminal, in one line in a pipe.

    indent: before each line of it. An empty sentence prints nothing.
    """
    if not content:
        return
    console, sentence = _stdout(), printable(" ".join(content.splitlines()))
    if not console.is_terminal:
        print_result(indent + sentence)
        return
    for each in wrapped(indent + sentence, console.width, indent=indent + "  "):
        print_result(each)


def space() -> None:
    """Print an empty line, between a table and what comes after it."""
    print_result("")


def _stdout() -> Console:
    return Console(file=results(), markup=False, emoji=False, highlight=False)


def _one_line(column: Column) -> Column:
    return Column(line(column.heading), column.importance, column.right, column.wraps)


def _print_layout(console: Console, layout: Layout) -> None:
    with console.capture() as captured:
        for k, each in enumerate(layout.lines):
            style = "bold" if k < layout.n_heading else ""
            console.print(Text(each, style=style), soft_wrap=True)
    write_results(captured.get())
