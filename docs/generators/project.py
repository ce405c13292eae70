"""Pages of the project whose text lies beside the README: contributing, security, changes."""

from __future__ import annotations

from pathlib import Path

from generators import links
from generators.markdown import block, page

NAMES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


def pages(docs: Path) -> dict[str, str]:
    """Return a page for each of these files."""
    written = {}
    for name in NAMES:
        text = (links.ROOT / name).read_text(encoding="utf-8")
        place = links.PLACES[name]
        written[place] = links.moved(text, links.ROOT, docs / place)
    licence = (links.ROOT / "LICENSE").read_text(encoding="utf-8")
    return written | {links.PLACES["LICENSE"]: page("Licence", block(licence))}
