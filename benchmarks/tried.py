"""Count the faults and the attacks on dynbench itself that the tests try; write docs/security.md.

    python benchmarks/tried.py

Results: benchmarks/results/tried.csv, and the tables of all pages, as benchmarks/tables.py writes
them.
"""

from __future__ import annotations

import ast
import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import measuring
import tables

ROOT = Path(__file__).parents[1]
KINDS = {"tests/faults": "fault", "tests/hostile": "attack"}
COLUMNS = ("kind", "module", "subject", "tests", "cases")

Row = dict[str, str]


def collect() -> list[Row]:
    """Return a row for each test module of a kind: its subject, its tests, and their cases."""
    folders = [folder for folder in KINDS if (ROOT / folder).is_dir()]
    options = "--collect-only -q -p no:cacheprovider -o addopts=--import-mode=importlib"
    command = [sys.executable, "-m", "pytest", *options.split(), *folders]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return rows_of(listed)


def rows_of(listed: str) -> list[Row]:
    """Count pytest's list of tests, one `module::test[case]` a line."""
    ids = [line.partition("::") for line in listed.splitlines() if "::" in line]
    cases = Counter(module for module, _, _ in ids)
    tests = Counter(module for module, _ in {(m, test.partition("[")[0]) for m, _, test in ids})
    return [
        {
            "kind": KINDS[str(Path(module).parent)],
            "module": module,
            "subject": subject_of(ROOT / module),
            "tests": str(tests[module]),
            "cases": str(cases[module]),
        }
        for module in sorted(cases)
    ]


def subject_of(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def main() -> None:
    rows = collect()
    path = measuring.RESULTS / "tried.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{sum(int(row['cases']) for row in rows)} cases in {len(rows)} modules: {path}")
    tables.main()


if __name__ == "__main__":
    main()
