"""The page of the benchmarks: each script, what it measures, and its results."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from generators import links
from generators.markdown import block, inline, page

FOLDER = links.ROOT / "benchmarks"
INTRODUCTION = """\
Every number of these pages was written by a command. The scripts below measure. Each writes a CSV
file, with the machine that it ran on, and `python benchmarks/tables.py` copies tables from there
into the pages. A comparison measures both sides in one run."""
# Where the results are follows as links.
_PLACE = re.compile(r"\s*Results: benchmarks/results/\S+\.csv( and \.png)?\.")


def pages(_docs: Path) -> dict[str, str]:
    """Return the page."""
    sections = [section(path) for path in sorted(FOLDER.glob("*.py")) if command(path)]
    return {"results/benchmarks.md": page("Benchmarks", INTRODUCTION, *sections)}


def documented(path: Path) -> str:
    """Return the docstring of a script."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def command(path: Path) -> str:
    """Return how a script is run, by its docstring; "" for a module that others import."""
    pattern = rf"^    ((?:\S+=\S+ )?python benchmarks/{path.name}.*)$"
    found = re.search(pattern, documented(path), re.MULTILINE)
    return found[1] if found else ""


def section(path: Path) -> str:
    """Return what a script measures, how it is run, and where its results are."""
    said = documented(path).split("\n\n")
    texts = [inline(_PLACE.sub("", part)) for part in said if not part.startswith("    ")]
    lines = [line for part in said for line in part.splitlines() if line.startswith("    ")]
    shown = block("\n".join(line.strip() for line in lines), "console")
    found = ", ".join(f"[{name}](../../benchmarks/results/{name})" for name in results(path))
    return "\n\n".join(
        [f"## {path.stem}", *texts, shown, *([f"Results: {found}"] if found else [])]
    )


def results(path: Path) -> list[str]:
    """Return the names of the files that a script has written."""
    return sorted(
        result.name
        for result in (FOLDER / "results").iterdir()
        if result.suffix in {".csv", ".png"} and re.match(rf"{path.stem}(\.|_)", result.name)
    )
