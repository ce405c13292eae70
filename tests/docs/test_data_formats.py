"""docs/data-formats.md and docs/flags.md describe every column, table and flag."""

import re
from pathlib import Path

import pytest

from robustbench_dyn.results import flags
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.summary import SUMMARY_COLUMNS
from robustbench_dyn.results.verdicts import EXAMPLE_COLUMNS, Outcome, Status

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "data-formats.md").read_text()


def described(names, text):
    """Return the names that the text does not have in code style."""
    code = set(re.findall(r"`([^`]+)`", text))
    return [name for name in names if name not in code]


def tables():
    rows = Store().connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in rows]


@pytest.mark.parametrize("names", [EXAMPLE_COLUMNS, SUMMARY_COLUMNS, tables(), Outcome, Status])
def test_every_name_is_described(names):
    assert described(map(str, names), PAGE) == []


def test_every_flag_is_described():
    text = (DOCS / "flags.md").read_text()
    names = [value for name, value in vars(flags).items() if name.isupper() and str(value) == value]
    assert len(names) >= 6
    assert described(names, text) == []


def test_a_column_without_a_description_is_found():
    assert described(["eps", "no_such_column"], PAGE) == ["no_such_column"]
