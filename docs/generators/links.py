"""Links from pages to files of the repository: to their pages in the site, where they have one.

Pages link to files as they lie in the repository, so that they work there; in the site, the link to
a plugin leads to the page of its model, and the link to a module to a page with its code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, MutableSequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
# Pages of the site that stand for a file elsewhere in the repository.
PLACES: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "LICENSE": "project/license.md",
    "SECURITY.md": "project/security.md",
    "leaderboards": "results/leaderboards.md",
    "leaderboards/README.md": "results/leaderboards.md",
}
_LINK = re.compile(r"(?P<start>\]\()(?P<target>[^)#:\s]+)(?P<rest>(?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^(`{3,}).*?^\1", re.DOTALL | re.MULTILINE)


def outside(text: str, folder: Path) -> Iterator[tuple[re.Match[str], str]]:
    """Yield the links of a page to files outside of docs/, with their path in the repository.

    folder: where the page lies.
    """
    fences = [match.span() for match in _FENCE.finditer(text)]
    for match in _LINK.finditer(text):
        if any(start <= match.start() < end for start, end in fences):
            continue
        path = Path(os.path.normpath(folder / match["target"]))
        if path.is_relative_to(ROOT) and not path.is_relative_to(DOCS):
            yield match, path.relative_to(ROOT).as_posix()


def place(path: str) -> str | None:
    """Return the page of the site for a file or folder of the repository; None for a download."""
    if path in PLACES:
        return PLACES[path]
    if path.startswith("plugins/") and (ROOT / path / "card.yaml").exists():
        return f"zoo/{Path(path).name}.md"
    if (ROOT / path).is_dir() or path.endswith(".py"):
        return f"code/{path.removesuffix('.py')}.md"
    return None


def moved(text: str, folder: Path, page: Path) -> str:
    """Return the text of a file in a folder with links that work from a page elsewhere."""

    def of_page(match: re.Match[str]) -> str:
        target = os.path.normpath(folder / match["target"])
        relative = os.path.relpath(target, page.parent).replace(os.sep, "/")
        return match["start"] + relative + match["rest"]

    return _LINK.sub(of_page, text)


def rewritten(text: str, page: Path) -> str:
    """Return the text of a page under docs/ with links that lead to pages of the site."""
    for match, path in reversed([*outside(text, page.parent)]):
        target = DOCS / found if (found := place(path)) else ROOT / path
        rest = ")" if found else match["rest"]
        relative = os.path.relpath(target, page.parent).replace(os.sep, "/")
        text = text[: match.start()] + match["start"] + relative + rest + text[match.end() :]
    return text


def read(app: Any, name: str, source: MutableSequence[str]) -> None:
    """Rewrite the links of a page as Sphinx reads it."""
    source[0] = rewritten(source[0], Path(app.env.doc2path(name)))


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Lead a type of a signature, named by its module, to the public name in the reference."""
    public = "robustbench_dyn." + node.get("reftarget", "").rpartition(".")[2]
    domain = env.get_domain("py")
    if node.get("refdomain") != "py" or public not in domain.objects:
        return None
    name = node.get("refdoc", env.docname)
    return domain.resolve_xref(env, name, app.builder, "obj", public, node, content)
