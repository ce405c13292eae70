"""Text in tables, written so that it stays text: in CSV, markdown and plots."""

from __future__ import annotations

import re

# What a spreadsheet takes for a formula. An apostrophe in front says that text follows; texts that
# begin with an apostrophe and such a sign get one more, so that reading restores each of them.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r\n]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKDOWN = re.compile(r"([\\`*\[\]|])")
_BREAKS = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+")


def to_csv_text(text: str) -> str:
    """Return a text as a CSV cell that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv_text(cell: str) -> str:
    """Return the text of a CSV cell that to_csv_text wrote."""
    return cell[1:] if _ESCAPED.match(cell) else cell


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
