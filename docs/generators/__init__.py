"""Pages that are written at each build, from the code, the cards and the tables."""

from __future__ import annotations

from pathlib import Path

from generators import api, benchmarks, code, commands, leaderboards, notebooks, project, zoo

# Folders of generated pages alone: what no generator writes is removed from them.
FOLDERS = ("code", "project", "reference", "results", "zoo")

Pages = dict[str, str]


def pages(docs: Path) -> Pages:
    """Return the text of each generated page by its path under docs."""
    written: Pages = {}
    for generator in (api, benchmarks, commands, leaderboards, notebooks, project, zoo):
        written |= generator.pages(docs)
    # Last: code that any page links to has a page of its own.
    return written | code.pages(docs, written)


def generate(docs: Path) -> None:
    """Write the generated pages whose text is new, and remove those of earlier builds."""
    wanted = pages(docs)
    for folder in FOLDERS:
        for path in (docs / folder).rglob("*.md"):
            if path.relative_to(docs).as_posix() not in wanted:
                path.unlink()
    for name, text in wanted.items():
        path = docs / name
        assert name.split("/")[0] in FOLDERS, name
        # An unchanged file keeps its time, and Sphinx need not read it again.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
