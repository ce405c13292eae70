"""Consoles of rich that print texts as they are: a model called "[/b]" is no markup."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Column, Table
from rich.text import Text

from robustbench_dyn.cli.output import results
from robustbench_dyn.errors import printable


def stdout(*, width_of_pipe: int | None = None) -> Console:
    """Return a console that prints results; a pipe has no width, and 80 columns cut tables."""
    console = Console(file=results(), markup=False, emoji=False)
    if width_of_pipe is not None and not console.is_terminal:
        console.width = width_of_pipe
    return console


def stderr() -> Console:
    """Return a console that prints progress and messages."""
    return Console(stderr=True, markup=False, emoji=False)


def line(content: object) -> str:
    """Return a text in one line, with its control characters escaped."""
    return printable(" ".join(str(content).split()))


def text(content: object) -> Text:
    """Return a cell, title or status that rich prints as it is."""
    return Text(line(content))


def print_text(console: Console, content: str) -> None:
    """Print a message in one line, however long."""
    console.print(text(content), soft_wrap=True)


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings."""
    table = Table(*(Column(text(heading)) for heading in headings))
    for row in rows:
        table.add_row(*map(text, row))
    stdout(width_of_pipe=200).print(table)


def page(markdown: str) -> None:
    """Print a markdown page: rendered in a terminal, as plain text in a pipe."""
    console, markdown = stdout(), printable(markdown)
    if console.is_terminal:
        console.print(Markdown(markdown, hyperlinks=False))
    else:
        console.out(markdown, highlight=False, end="")
