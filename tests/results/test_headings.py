"""Names that people read, and how values are written."""

import pytest

from robustbench_dyn.reporting.rows import PUBLISHED_COLUMNS
from robustbench_dyn.results.headings import (
    HEADINGS,
    format_eps,
    format_interval,
    format_joined,
    format_number,
    format_percent,
    format_rank,
    format_suite,
    heading,
    members_of_suites,
)
from robustbench_dyn.threat_models import parse_eps


@pytest.mark.parametrize("column", PUBLISHED_COLUMNS)
def test_each_column_of_a_table_has_a_heading(column):
    assert column in HEADINGS
    assert "_" not in heading(column)


def test_headings_are_distinct():
    assert len(set(HEADINGS.values())) == len(HEADINGS)
    assert heading("of_a_later_version") == "of a later version"


@pytest.mark.parametrize(
    ("eps", "digits", "text"),
    [
        (8 / 255, None, "8/255"),
        (8 / 255, 4, "8/255"),
        (0.5, 4, "0.5"),
        (2 / 7, None, "2/7"),
        (2 / 7, 4, "0.2857"),
        (0, 4, "0"),
        (0.123456789, 4, "0.1235"),
        (0.123456789, None, "0.123456789"),
    ],
)
def test_eps_is_written_as_people_read_it(eps, digits, text):
    assert format_eps(eps, digits=digits) == text
    if digits is None:
        assert parse_eps(text) == eps


def test_numbers_are_written_as_people_read_them():
    assert [format_percent(x) for x in (0.8354, 1, None, float("nan"))] == [
        "83.5",
        "100.0",
        "–",
        "–",
    ]
    assert format_interval(0.801, 0.866) == "[80.1, 86.6]"
    assert [format_number(x) for x in (0.01234, 99.94, 12345.6, None)] == [
        "0.0123",
        "99.9",
        "12,346",
        "–",
    ]
    assert format_rank(2, tied=True) == "2="
    assert format_rank(2, tied=False) == "2"
    assert format_rank(None, tied=False) == "–"
    assert format_joined("a+b") == "a, b"
    assert format_joined("") == "none"


@pytest.mark.parametrize(
    ("suite", "added", "attacks", "text"),
    [
        ("standard", "", "apgd-ce+square", "standard"),
        ("standard", "rays", "apgd-ce+square+rays", "standard + rays"),
        ("custom", "", "pgd+square", "pgd, square"),
        ("", "", "apgd-ce+square", "apgd-ce, square"),
        ("none", "", "none", "none"),
    ],
)
def test_a_suite_is_written_by_its_name(suite, added, attacks, text):
    row = {"suite": suite, "added_attacks": added, "attacks": attacks}
    assert format_suite(row) == text


def test_members_of_a_suite_are_listed_once():
    rows = [
        {"suite": "standard", "added_attacks": "", "attacks": "apgd-ce+square"},
        {"suite": "standard", "added_attacks": "rays", "attacks": "apgd-ce(failed)+square+rays"},
        {"suite": "standard", "added_attacks": "", "attacks": "apgd-ce"},
        {"suite": "custom", "added_attacks": "", "attacks": "pgd"},
        {"suite": "standard", "added_attacks": "eot-apgd", "attacks": "eot-apgd"},
    ]
    assert members_of_suites(rows) == [("standard", "apgd-ce"), ("standard", "apgd-ce, square")]
