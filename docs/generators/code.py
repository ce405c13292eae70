"""Pages with the code that other pages link to: modules, and folders of modules."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from generators import links
from generators.markdown import inline, literal, page, table


def pages(docs: Path, others: Mapping[str, str]) -> dict[str, str]:
    """Return a page for each module and folder that some page links to.

    others: the other generated pages, by their path under docs.
    """
    wanted = set(linked(docs, others))
    folders = {path for path in wanted if (links.ROOT / path).is_dir()}
    modules = {path for path in wanted if path.endswith(".py")}
    for folder in folders:
        modules |= {f"{folder}/{name}" for name in module_names(folder)}
    written = {page_of(folder): of_folder(folder) for folder in folders}
    return written | {page_of(module): of_module(module, docs) for module in modules}


def linked(docs: Path, others: Mapping[str, str]) -> Iterator[str]:
    """Yield what pages link to that has a page of code."""
    texts = {docs / name: text for name, text in others.items()}
    for folder in (docs, docs / "how-to", docs / "theory"):
        texts |= {path: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    for path, text in texts.items():
        for _, target in links.outside(text, path.parent):
            if (links.place(target) or "").startswith("code/"):
                yield target


def page_of(path: str) -> str:
    """Return the page of a module or folder."""
    return links.place(path) or ""


def module_names(folder: str) -> list[str]:
    """Return the modules of a folder, without those of folders in it."""
    return sorted(path.name for path in (links.ROOT / folder).glob("*.py"))


def of_module(path: str, docs: Path) -> str:
    """Return the page of one module."""
    source = links.ROOT / path
    relative = os.path.relpath(source, (docs / page_of(path)).parent).replace(os.sep, "/")
    shown = f"```{{literalinclude}} {relative}\n:language: python\n```"
    return page(literal(path), shown, orphan=True)


def of_folder(path: str) -> str:
    """Return the page of a folder: its modules with the first sentence of their docstrings."""
    rows = []
    for name in module_names(path):
        text = (links.ROOT / path / name).read_text(encoding="utf-8")
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
        place = f"{Path(path).name}/{name.removesuffix('.py')}.md"
        rows.append((f"[{literal(name)}]({place})", inline(said)))
    return page(literal(path), table(("module", "content"), rows), orphan=True)
