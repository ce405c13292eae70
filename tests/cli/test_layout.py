"""Layouts of tables: what fits a width, what is left out first, and lines for programs."""

import io
import random
import re

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from robustbench_dyn.cli.layout import Column, for_pipe, for_terminal, wrapped

NAMES = ["expansive_contractive/prescribed", "lipflow", "feedforward/noise-0.25~0.25"]
COLUMNS = [
    Column("model"),
    Column("data set", importance=3),
    Column("certified %", right=True),
    Column("description", importance=2, wraps=True),
    Column("passes", importance=1, right=True),
]
TEXT = "projected gradient descent, 20 steps (arXiv 1706.06083)"
ROWS = [[name, "fashion_mnist", "77.0", TEXT, "11,793"] for name in NAMES]


@pytest.mark.parametrize("width", [12, 20, 40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width):
    for line in for_terminal(COLUMNS, ROWS, width).lines:
        assert cell_len(line) <= width


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_names_are_whole_at_any_usual_width(width):
    text = "\n".join(for_terminal(COLUMNS, ROWS, width).lines)
    assert all(name in text for name in NAMES)
    assert "…" not in text


@pytest.mark.parametrize("width", [40, 60])
def test_a_table_of_rich_cuts_the_same_names(width):
    table = Table("model", "data set", "certified %", "description", "passes")
    for row in ROWS:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert not all(name in console.file.getvalue() for name in NAMES)


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (120, []),
        (95, []),
        (90, ["passes"]),
        (80, ["description", "passes"]),
        (55, ["data set", "description", "passes"]),
    ],
)
def test_the_least_important_columns_are_left_out(width, left_out):
    assert for_terminal(COLUMNS, ROWS, width).left_out == left_out


def test_the_width_that_is_named_shows_all_columns():
    width = for_terminal(COLUMNS, ROWS, 60).width
    assert for_terminal(COLUMNS, ROWS, width).left_out == []
    assert for_terminal(COLUMNS, ROWS, width - 1).left_out != []


def test_where_nothing_fits_each_row_is_a_paragraph_of_all_its_values():
    layout = for_terminal(COLUMNS, ROWS, 40)
    assert (layout.n_heading, layout.left_out) == (0, [])
    text = " ".join(" ".join(layout.lines).split())
    assert text.count(f"description: {TEXT}") == text.count("passes: 11,793") == len(ROWS)


def test_long_text_takes_several_lines_and_loses_nothing():
    lines = for_terminal(COLUMNS, ROWS[1:2], 70).lines
    assert len(lines) > 3
    assert all(word in " ".join(lines) for word in TEXT.split())


@pytest.mark.parametrize("seed", range(20))
def test_a_pipe_has_one_line_a_row_and_all_cells(seed):
    generator = random.Random(seed)
    words = ["lipflow", "a b", "", "8/255", "日本", "x" * 300]
    rows = [[generator.choice(words) for _ in COLUMNS] for _ in range(6)]
    heading, *lines = for_pipe(COLUMNS, rows).lines
    assert re.split(" {2,}", heading.strip()) == [column.heading for column in COLUMNS]
    for line, row in zip(lines, rows, strict=True):
        assert re.split(" {2,}", line.strip()) == [cell or "–" for cell in row]


@pytest.mark.parametrize("width", [5, 20, 40, 80])
def test_sentences_wrap_between_words(width):
    text = "interval: not run: the operation 'max_pool2d_with_indices' is not supported"
    lines = wrapped(text, width, indent="  ")
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    if width >= 40:
        assert "'max_pool2d_with_indices'" in " ".join(line.strip() for line in lines)
