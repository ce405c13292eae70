"""Texts of elsewhere as Markdown: escaped, as tables, as code, as lists of pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#$~])")


def _on_a_line(text: object) -> str:
    return " ".join(str(text).split())


def escaped(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", _on_a_line(text))


def inline(text: str) -> str:
    """Return text with every character escaped but those in `code`."""
    parts = re.split(r"(`[^`]+`)", _on_a_line(text))
    return "".join(p if p.startswith("`") else _SPECIAL.sub(r"\\\1", p) for p in parts)


def literal(text: object) -> str:
    """Return text as inline code; in a cell of a table, too."""
    shown = _on_a_line(text).replace("|", r"\|")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown already."""
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def block(text: str, language: str = "text") -> str:
    """Return a block of code, fenced by more backticks than the text has in a row."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def toctree(pages: Iterable[str], *options: str) -> str:
    """Return the list of a page's sub-pages."""
    return "\n".join(["```{toctree}", *(f":{option}:" for option in options), "", *pages, "```"])


def page(title: str, *parts: str, orphan: bool = False) -> str:
    """Return a page of a title and parts, which may be empty."""
    head = ["---\norphan: true\n---"] if orphan else []
    return "\n\n".join([*head, f"# {title}", *(part for part in parts if part)]) + "\n"
