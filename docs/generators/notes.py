"""Docstrings as reStructuredText: they are plain text with `code`, lists and indented blocks."""

from __future__ import annotations

import re
from collections.abc import MutableSequence
from typing import Any

_CODE = re.compile(r"`[^`]+`")
_SPECIAL = re.compile(r"([*|\\])|(?<=\w)(_)(?!\w)")


def process(
    _app: Any, _kind: str, _name: str, _thing: Any, _options: Any, lines: MutableSequence[str]
) -> None:
    """Rewrite a docstring as autodoc hands it over."""
    lines[:] = as_rst(lines)


def signature(
    _app: Any, _kind: str, _name: str, _thing: Any, _options: Any, shown: str | None, returned: str
) -> tuple[str | None, str]:
    """Return a signature that Sphinx can parse: a default that a function makes is `...`."""
    return shown and shown.replace("<factory>", "..."), returned


def as_rst(lines: MutableSequence[str]) -> list[str]:
    """Return lines that Sphinx shows as the docstring reads."""
    written: list[str] = []
    indented = False
    for number, line in enumerate(lines):
        starts_block = line.startswith("    ") and (number == 0 or not lines[number - 1].strip())
        if starts_block and not indented:
            written += ["::", ""]
        indented = line.startswith("    ") and (indented or starts_block)
        written.append(line if indented or not line.strip() else _text(line))
        if not line.strip() and number + 1 < len(lines):
            indented = indented and lines[number + 1].startswith("    ")
    return written


def _text(line: str) -> str:
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(
        f"`{part}`" if _CODE.fullmatch(part) else _SPECIAL.sub(r"\\\g<0>", part) for part in parts
    )
