"""Text in tables, written so that it stays text: in CSV, markdown, LaTeX and plots."""

from __future__ import annotations

import re

# What a spreadsheet takes for a formula. An apostrophe in front says that text follows; texts that
# begin with an apostrophe and such a sign get one more, so that reading restores each of them.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r\n]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKDOWN = re.compile(r"([\\`*\[\]|])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
} | {character: f"\\{character}" for character in "{}$&#_%"}
_BREAKS = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+")


def to_csv_text(text: str) -> str:
    """Return a text as a CSV cell that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv_text(cell: str) -> str:
    """Return the text of a CSV cell that to_csv_text wrote."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def to_csv_cell(text: str) -> str:
    """Return a text as it stands in a line of a CSV: to_csv_text, in quotes where it needs them."""
    text = to_csv_text(text).replace('"', '""')
    # csv.writer leaves a carriage return without quotes.
    return f'"{text}"' if re.search(r'[,"\r\n]', text) else text


def to_plot_text(text: str) -> str:
    """Return a text as a label of matplotlib: on one line, without formulas, and never hidden."""
    text = _BREAKS.sub(" ", text).replace("$", r"\$")
    # A legend leaves out labels that begin with _.
    return f" {text}" if text.startswith("_") else text


def to_markdown_text(text: str) -> str:
    """Return a text as a cell of a markdown table: on one line, without HTML and markup."""
    text = _BREAKS.sub(" ", text)
    text = "".join(_HTML.get(character, character) for character in text)
    return _MARKDOWN.sub(r"\\\1", text)


def to_latex_text(text: str) -> str:
    """Return a text as a cell of a LaTeX table: on one line, in ASCII, without commands."""
    text = _BREAKS.sub(" ", text)
    # Not every font has all characters, and one that is missing stops LaTeX.
    text = "".join(c if c.isascii() or c in _LATEX else ascii(c)[1:-1] for c in text)
    text = "".join(_LATEX.get(character, character) for character in text)
    # At the start of a row, these two would be arguments of the \\ before it.
    return f"{{}}{text}" if text.startswith(("[", "*")) else text
