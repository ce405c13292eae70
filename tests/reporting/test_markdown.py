"""Tables as GitHub Markdown."""

import re

from oracles.entries import ENTRIES, entry, letters

from robustbench_dyn.reporting.markdown import to_markdown


def tables(page):
    """Return the cells of each table of a page, by its rows."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in block.splitlines()]
        for block in blocks
    ]


def columns(table):
    heading, _, *rows = table
    return [dict(zip(heading, row, strict=True)) for row in rows]


def test_ranked_models_come_first_and_the_others_apart():
    page = to_markdown(ENTRIES)
    assert "## digits, Linf, eps 8/255" in page
    first, elsewhere, apart = map(columns, tables(page))
    assert [(row["rank"], row["model"]) for row in first] == [
        ("1=", "a"),
        ("1=", "b"),
        ("3", "c (2 seeds)"),
    ]
    assert [row["model"] for row in elsewhere] == ["few"]
    assert [row["model"] for row in apart] == ["masked"]
    assert "rank" not in apart[0]
    assert page.index("### On other images") < page.index("### Not ranked")
    assert first[0]["certified %"] == "75.0"
    assert first[0]["empirical %"] == "80.0"
    assert first[0]["gap"] == "5.0"
    assert first[2]["certified %"] == "15.0 (10.0–20.0)"
    assert first[0]["examples"] == "200"
    assert first[0]["suite"] == "standard"
    assert first[0]["seconds / example"] == "0.125"


def test_flags_say_what_they_ask_for():
    page = to_markdown(ENTRIES)
    assert "- zero_gradients:0.4 asks for attacks without gradients" in page
    assert "Corrected after publication: masked: example 3 by x (2026)." in page


def test_suites_are_listed_once_and_the_interval_is_named():
    page = to_markdown(ENTRIES)
    assert page.count("- standard: pgd\n") == 1
    assert "Clopper-Pearson" in page


def test_each_row_has_a_cell_a_column():
    hostile = "a|b [x](y) `c` <img> \\"
    page = to_markdown(
        [*ENTRIES, entry("z", letters(9), certifiers=(hostile,), columns={"open_flags": hostile})]
    )
    for table in tables(page):
        assert len({len(row) for row in table}) == 1
    assert "<img>" not in page
    assert "[x](y)" not in page


def test_internal_names_are_not_shown():
    page = to_markdown(ENTRIES)
    for name in ("certified_accuracy", "ci_low", "n_examples", "0.0313"):
        assert name not in page
