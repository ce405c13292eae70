"""Check the links of a site: each leads to a file of it, and to an anchor that is there.

    python docs/check_links.py docs/_build

Links to other sites are checked for their form alone: nothing is asked of the network.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that name a file, and those of them that a browser follows on its own.
_LINKS = {"href", "src"}
_SCHEMES = {"http", "https", "mailto", "data"}


class Page(HTMLParser):
    """The links and the anchors of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the links and the anchors of an element."""
        for name, value in attrs:
            if name in _LINKS and value is not None:
                self.links.append(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")


def broken(site: Path) -> Iterator[str]:
    """Yield a line for each broken link of a folder of pages."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            if reason := problem(link, path, pages, site.resolve()):
                yield f"{path.relative_to(site.resolve())}: {link}: {reason}"


def problem(link: str, path: Path, pages: dict[Path, Page], site: Path) -> str:
    """Return what is wrong with a link of the page at path; "" where it is right."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        known = parts.scheme in _SCHEMES and (parts.netloc or parts.scheme in {"mailto", "data"})
        return "" if known and " " not in link else "is no address"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(site):
        return "leads out of the site"
    if not target.is_file():
        return "there is no such file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "the page has no such anchor"
    return ""


def main(site: Path) -> int:
    """Print the broken links; return how many there are."""
    lines = list(broken(site))
    print("\n".join(lines) if lines else f"{site}: every link leads somewhere")
    return len(lines)


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1])) else 0)
