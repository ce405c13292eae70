"""The tables in docs/ match the results of the benchmarks."""

import re

import pandas as pd
import pytest
import tables

PAGES = sorted(tables.DOCS.glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_tables_in_docs_match_the_results(path):
    page = path.read_text(encoding="utf-8")
    assert tables.fill(page) == page, "run: python benchmarks/tables.py"


def test_a_number_typed_by_hand_is_replaced():
    page = (tables.DOCS / "certification.md").read_text(encoding="utf-8")
    name, *_ = re.findall(r"<!-- table (\w+) -->", page)
    start = page.index(f"<!-- table {name} -->")
    typed = page[:start] + re.sub(r"\d", "7", page[start:], count=40)
    assert typed != page
    assert tables.fill(typed) == page


def test_an_unknown_table_is_named():
    with pytest.raises(KeyError, match="magic"):
        tables.fill("<!-- table magic -->\n<!-- end of magic -->")


def test_hits_and_the_nearest_example_reach_the_table(tmp_path, monkeypatch):
    row = {
        "dataset": "moons",
        "norm": "L2",
        "certifier": "lipschitz",
        "n_examples": 100,
        "certified": 5,
        "hits": 0,
        "nearest": 1.25,
    }
    rows = [row, row | {"hits": 2, "nearest": 0.75, "n_examples": 30}, row | {"certified": 0}]
    pd.DataFrame(rows).to_csv(tmp_path / "soundness.csv", index=False)
    monkeypatch.setattr(tables.measuring, "RESULTS", tmp_path)
    assert "| moons | L2 | lipschitz | 2 | 30 or 100 | 10 | 2 | 0.750 |" in tables.soundness()
