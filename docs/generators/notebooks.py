"""Notebooks of docs/ as pages: their text, code and small outputs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generators.markdown import block, page, toctree

INTRODUCTION = """\
In a notebook, an evaluation shows itself: its bracket, counts and table. Notebooks run as they are
here, without a network and without a GPU."""


def pages(docs: Path) -> dict[str, str]:
    """Return a page for each notebook, and their list."""
    found = {path.stem: path for path in sorted(docs.glob("*.ipynb"))}
    written = {
        f"results/{name}.md": "\n\n".join(parts(path)) + "\n" for name, path in found.items()
    }
    listed = toctree(found) if found else ""
    written["results/notebooks.md"] = page("Notebooks", INTRODUCTION, listed)
    return written


def parts(path: Path) -> Iterator[str]:
    """Yield the cells of a notebook, after a link to the file; a title comes first."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    download = f"The notebook itself: [{path.name}](../{path.name})."
    first = "".join(cells[0]["source"]) if cells and cells[0]["cell_type"] == "markdown" else ""
    if first.startswith("# "):
        title, _, rest = first.partition("\n")
        yield from (part for part in (title, download, rest.strip()) if part)
        cells = cells[1:]
    else:
        yield from (f"# {path.stem.capitalize()}", download)
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield text
        elif cell["cell_type"] == "code" and text.strip():
            yield block(text, "python")
            yield from filter(None, map(output, cell.get("outputs", [])))


def output(shown: dict[str, Any]) -> str:
    """Return an output as text or picture; "" for what a page cannot show."""
    data = shown.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        base64.b64decode(picture, validate=True)
        return f'<img alt="output of the cell" src="data:image/png;base64,{picture}">'
    text = "".join(shown.get("text") or data.get("text/plain") or "")
    return block(text) if text.strip() else ""
