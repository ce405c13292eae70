"""The written pages of the documentation, and the examples in them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from oracles.processes import completed

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Without the pages that the build of the site writes.
_FOLDERS = (DOCS, DOCS / "how-to", DOCS / "theory")
_AT_TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [
    *(ROOT / name for name in _AT_TOP),
    *(path for folder in _FOLDERS for path in sorted(folder.glob("*.md"))),
]


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def steps(text):
    """Yield the commands and programs of a page in their order: kind, source, exit code."""
    for kind, block in re.findall(
        r"^```(console|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    ):
        if kind == "python":
            yield kind, block, 0
            continue
        for line in block.splitlines():
            command, _, comment = line.removeprefix("$ ").partition("   # exit ")
            yield kind, command, int(comment or 0)


def run(kind, source, folder):
    """Run a command or program of a page in a folder."""
    if source.startswith("dynbench "):
        return completed(shlex.split(source)[1:], folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", source] if kind == "python" else ["bash", "-c", source]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
