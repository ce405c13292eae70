"""Build the documentation's site, with the site of the leaderboards in it, and check its links.

    pip install -r docs/requirements.txt
    python docs/build_site.py [docs/_build]

A warning of Sphinx is an error, and so is a link that leads nowhere.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import check_links
from generators import leaderboards

DOCS = Path(__file__).parent
# Everything anew, and every warning is an error, also of a reference that leads nowhere.
OPTIONS = ("-E", "-W", "--keep-going", "-n", "-q")


def main(target: Path) -> int:
    """Build the site into a folder; return the exit code."""
    html = target / "html"
    places = ["-d", str(target / "doctrees"), str(DOCS), str(html)]
    subprocess.run([sys.executable, "-m", "sphinx", *OPTIONS, *places], check=True)
    dynbench = [sys.executable, "-c", "from robustbench_dyn.cli import main; main()"]
    page = ["leaderboard", "--to", str(DOCS.parent / "leaderboards"), "--page"]
    subprocess.run(
        [*dynbench, *page, str(html / leaderboards.SITE)], check=True, stdout=subprocess.DEVNULL
    )
    return 1 if check_links.main(html) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "_build"))
