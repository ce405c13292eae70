"""The script and the style that ship are what a build of page/ gives."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "page"
SHIPPED = ROOT / "robustbench_dyn/reporting/page/static"
# Of npm, where the registry is out of reach; any other failure is one of ours.
OUT_OF_REACH = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH")


@pytest.mark.slow
def test_shipped_files_equal_a_fresh_build(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("there is no npm")
    shutil.copytree(SOURCE, tmp_path / "page", ignore=shutil.ignore_patterns("node_modules"))
    try:
        install = run("npm", "ci", folder=tmp_path / "page")
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry takes too long")
    if install.returncode and OUT_OF_REACH.search(install.stderr):
        pytest.skip("npm's registry is out of reach")
    assert install.returncode == 0, install.stderr
    build = run("node", "build.mjs", str(tmp_path / "built"), folder=tmp_path / "page")
    assert build.returncode == 0, build.stderr
    built = {path.name: path.read_bytes() for path in (tmp_path / "built").iterdir()}
    assert built == {path.name: path.read_bytes() for path in SHIPPED.iterdir()}


def run(*command, folder):
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_lockfile_names_hashes_and_no_registry():
    lock = json.loads((SOURCE / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: one for name, one in lock["packages"].items() if name}
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    assert not any("resolved" in one for one in packages.values())


def test_licences_of_all_that_is_bundled_ship():
    text = (SHIPPED / "LICENSES.txt").read_text(encoding="utf-8")
    for name in ("@observablehq/plot", "@tanstack/table-core", "@tanstack/store", "d3-array"):
        assert re.search(
            rf"^{re.escape(name)} \d+\.\d+\.\d+ \((MIT|ISC|BSD-3-Clause)\)$", text, re.M
        )
    assert "License: undefined" not in text
