"""docs/statistics.md: its examples print what they say."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"


def outcome(text):
    test = doctest.DocTestParser().get_doctest(text.replace("```", ""), {}, "page", None, None)
    return doctest.DocTestRunner(verbose=False).run(test, out=lambda _: None)


def test_the_examples_print_what_the_page_says():
    result = outcome(PAGE.read_text(encoding="utf-8"))
    assert result.failed == 0
    assert result.attempted >= 8


def test_a_wrong_number_is_found():
    text = PAGE.read_text(encoding="utf-8")
    assert outcome(text.replace("\n944\n", "\n945\n")).failed == 1
