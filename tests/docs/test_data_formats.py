"""docs/data-formats.md and docs/flags.md describe every column, table and flag."""

import re
from pathlib import Path

import pytest

from robustbench_dyn.evaluation.result import X_ADV
from robustbench_dyn.reporting.rows import PUBLISHED_COLUMNS
from robustbench_dyn.results.flags import FLAGS, name_of
from robustbench_dyn.results.store import Store
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


@pytest.mark.parametrize(
    "names", [(*EXAMPLE_COLUMNS, X_ADV), PUBLISHED_COLUMNS, tables(), Outcome, Status]
)
def test_every_name_is_described(names):
    assert described(map(str, names), PAGE) == []


def flags_on_the_page():
    """Return what docs/flags.md says of each flag: its name, meaning, and what it asks for."""
    lines = re.findall(
        r"^\| `([^`]+)` \| (.*?) \| (.*?) ?\|$", (DOCS / "flags.md").read_text(), re.M
    )
    return {name_of(form.replace("NAME_", "x_")): (meaning, asks) for form, meaning, asks in lines}


def test_the_page_says_of_each_flag_what_rows_say():
    assert flags_on_the_page() == {name: tuple(flag) for name, flag in FLAGS.items()}


def test_a_column_without_a_description_is_found():
    assert described(["eps", "no_such_column"], PAGE) == ["no_such_column"]
