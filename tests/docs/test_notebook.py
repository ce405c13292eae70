"""docs/notebook.ipynb runs from top to bottom, and shows HTML and pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
# IPython alone, without a kernel, runs the cells as Jupyter does.
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
shown = []
for source in json.load(sys.stdin):
    result = shell.run_cell(source, store_history=False)
    result.raise_error()
    formats, _ = shell.display_formatter.format(result.result)
    shown.append(sorted(formats) if result.result is not None else [])
print("SHOWN", json.dumps(shown))
"""


def sources(path=NOTEBOOK):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(cells, folder):
    """Run cells in IPython; return the formats of what each one shows. Fails where one raises."""
    pytest.importorskip("IPython", reason="IPython runs the cells; it is in the dev extra")
    process = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"IPYTHONDIR": str(folder / "ipython")},
    )
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    (line,) = (line for line in process.stdout.splitlines() if line.startswith("SHOWN "))
    return json.loads(line.removeprefix("SHOWN "))


@pytest.mark.slow
def test_the_notebook_runs_and_shows_tables_and_pictures(tmp_path):
    shown = run(sources(), tmp_path)
    assert len(shown) == 10
    result, picture = shown[2], shown[3]
    assert "text/html" in result
    assert "image/png" in picture
    assert [("text/html" in kinds, "image/png" in kinds) for kinds in shown].count(
        (False, False)
    ) == 3, "cells 1, 2 and 10 show nothing but text"
    assert (tmp_path / "mine.csv").read_text().startswith("example_id,")
    assert (tmp_path / "mine.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_a_cell_that_raises_fails_the_test(tmp_path):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(["x = 1", "x / 0"], tmp_path)
    assert run(["x = 1", "x"], tmp_path) == [[], ["text/plain"]]


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
