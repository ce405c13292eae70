"""docs/security.md counts the tests that there are, and names the files that are checked."""

import csv

import measuring
import pytest
import tables
import tried

from robustbench_dyn.datasets import published

PAGE = (tables.DOCS / "security.md").read_text(encoding="utf-8")
REMEDY = "run: python benchmarks/tried.py"


def written():
    with (measuring.RESULTS / "tried.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_the_page_counts_the_tests_that_there_are():
    assert written() == tried.collect(), REMEDY


def test_a_case_more_is_counted():
    module = "tests/hostile/test_data_files.py"
    listed = f"{module}::test_a[x]\n{module}::test_a[y::z]\n{module}::test_b\n\n3 tests collected\n"
    (row,) = tried.rows_of(listed)
    assert (row["kind"], row["tests"], row["cases"]) == ("attack", "2", "3")
    assert row["subject"].startswith("Forged data files")
    (more,) = tried.rows_of(f"{listed}{module}::test_b[1]\n")
    assert more["cases"] == "4"


def test_every_module_that_tries_faults_is_on_the_page():
    modules = [
        str(path.relative_to(tried.ROOT))
        for folder in tried.KINDS
        for path in (tried.ROOT / folder).glob("test_*.py")
    ]
    assert "tests/hostile/test_data_files.py" in modules
    assert [module for module in modules if f"`{module}`" not in PAGE] == [], REMEDY


def test_the_page_says_how_downloads_are_bounded():
    assert "stalls for 30 seconds" in PAGE
    assert "10 kB a second" in PAGE
    assert published.__name__.replace(".", "/") + ".py" in PAGE


def test_no_fault_lost_anything():
    with (measuring.RESULTS / "faults.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["command"] for row in rows} >= {"run", "sweep", "smooth", "train"}
    for row in rows:
        assert row["tried"] == row["survived"], row
        assert row["lost"] == row["unequal"] == row["corrupt"] == row["half_written"] == "0", row
