"""The page of the leaderboards: the tables of the repository, and the way to the site of them."""

from __future__ import annotations

from pathlib import Path

from generators import links

# `docs/build_site.py` writes the site of the tables there.
SITE = "leaderboards"
LEAD = """\
<p><a class="reference" href="../leaderboards/index.html">Open the interactive tables</a>: sort and
filter them, compare two models, and look at their adversarial examples.</p>
"""


def pages(docs: Path) -> dict[str, str]:
    """Return the page."""
    readme = links.ROOT / "leaderboards" / "README.md"
    title, text = readme.read_text(encoding="utf-8").split("\n", 1)
    place = links.PLACES["leaderboards"]
    text = links.moved(text, readme.parent, docs / place)
    return {place: f"{title}\n\n{LEAD}\n{text}"}
