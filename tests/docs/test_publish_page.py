"""docs/publish.md: its commands run in their order, and end as it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "publish.md"
_COMMAND = [sys.executable, "-c", "from robustbench_dyn.cli import main; main()"]


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
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    if kind == "python":
        command = [sys.executable, "-c", source]
    elif source.startswith("dynbench "):
        function = f"dynbench() {{ '{_COMMAND[0]}' -c '{_COMMAND[2]}' \"$@\"; }}"
        command = ["bash", "-c", f"{function}; {source}"]
    else:
        command = ["bash", "-c", source]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.slow
def test_the_walk_of_the_page(tmp_path):
    said = {}
    for kind, source, code in steps(PAGE.read_text(encoding="utf-8")):
        ended = run(kind, source, tmp_path)
        assert ended.returncode == code, (source, ended.stdout, ended.stderr)
        said[source] = ended.stdout + ended.stderr
    assert "24 examples" in next(v for k, v in said.items() if "third.sqlite --to" in k)
    assert "FAILS  forged/fashion_mnist-L2-0.5.csv, line 2" in said["dynbench verify forged"]
    assert (tmp_path / "site" / "index.html").is_file()
    assert "A. Reader, by mail" in (tmp_path / "tables/fashion_mnist-L2-0.5.csv").read_text()
    assert "trained on test images" in (tmp_path / "tables/withdrawn.csv").read_text()


def test_the_page_is_read_as_commands_and_programs():
    found = list(steps(PAGE.read_text(encoding="utf-8")))
    assert {kind for kind, _, _ in found} == {"console", "python"}
    assert {code for _, _, code in found} == {0, 1, 2}
    assert all(
        source.startswith(("dynbench ", "cp ", "sed ")) for k, source, _ in found if k == "console"
    )
