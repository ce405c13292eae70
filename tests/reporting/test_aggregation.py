"""Lines of tables: seeds as one line, models on other images and with open flags apart."""

import random

import pytest
from oracles.entries import entry

from robustbench_dyn.reporting.aggregation import Spread, lines
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.ranking import ranked

OTHER_WEIGHTS = "3" * 64


def letters(n_certified, n=200):
    return "c" * n_certified + "b" * (n - n_certified)


def table_of(*entries):
    (table,) = lines(ranked(entries))
    return table


def labels(found):
    return [line.label for line in found]


def test_seeds_are_one_line_with_their_spread():
    seeds = [entry("a", letters(n), seed=seed) for seed, n in ((1, 120), (0, 100))]
    (line,) = table_of(*seeds).ranked
    assert line.seeds == (0, 1)
    assert (line.certified.mean, line.certified.least, line.certified.most) == (0.55, 0.5, 0.6)
    assert line.certified.text() == "55.0 (50.0–60.0)"
    assert line.interval == (
        min(one.row["ci_low"] for one in seeds),
        max(one.row["ci_high"] for one in seeds),
    )
    assert line.seconds == pytest.approx(0.125)


def test_a_spread_of_equal_values_is_one_number():
    assert Spread.of([0.5, 0.5]).text() == "50.0"
    assert Spread.of([0.5, None]) is None
    assert Spread.of([]) is None


def test_ranked_lines_are_those_on_the_most_images():
    table = table_of(
        entry("few", letters(90, 100)),
        entry("many", letters(100)),
        entry("most", letters(150)),
        entry("fewer", letters(20, 100)),
        entry("fewest", letters(10, 100)),
    )
    assert labels(table.ranked) == ["most", "many"]
    assert labels(table.other_images) == ["few", "fewer", "fewest"]
    # Below the two on more images.
    assert [line.certified_rank for line in table.other_images] == [3, 4, 5]
    assert table.images.n_examples == 200


def test_a_flagged_row_of_more_images_is_no_standard():
    flagged = entry("flagged", letters(300, 400), columns={"open_flags": "random_outputs"})
    table = table_of(flagged, entry("a", letters(100)))
    assert labels(table.ranked) == ["a"]
    assert labels(table.not_ranked) == ["flagged"]


def test_open_flags_say_what_they_ask_for():
    flags = {"open_flags": "batch_coupled attack_failed:pgd:3 of_a_later_version"}
    (line,) = table_of(entry("a", letters(100), columns=flags)).not_ranked
    asked = dict(line.asks_for())
    assert asked["batch_coupled"] == "--batch-size 1"
    assert asked["attack_failed:pgd:3"] == "the attack to end on some examples"
    assert "version" in asked["of_a_later_version"]


def test_a_row_without_evidence_is_not_ranked():
    row = entry("a", letters(100)).row | {"evidence_sha256": None}
    (line,) = table_of(Entry(row, evidence=None)).not_ranked
    assert line.open_flags == ("no_evidence",)


def test_a_row_whose_evidence_was_not_read_keeps_its_rank():
    (whole,) = ranked([entry("a", letters(100))])
    (table,) = lines([whole._replace(evidence=None)])
    assert labels(table.ranked) == ["a"]
    assert table.ranked[0].open_flags == ()


def test_a_flag_of_one_seed_keeps_the_model_apart():
    flagged = entry("a", letters(100), seed=1, columns={"open_flags": "random_outputs"})
    table = table_of(entry("a", letters(100)), flagged)
    assert labels(table.not_ranked) == ["a"]
    assert table.not_ranked[0].open_flags == ("random_outputs",)
    assert not table.ranked


def test_weights_are_named_where_a_name_has_several():
    table = table_of(
        entry("a", letters(100)),
        entry("a", letters(150), weights_sha256=OTHER_WEIGHTS),
        entry("b", letters(50)),
    )
    assert labels(table.ranked) == ["a@33333333", "a@11111111", "b"]


def test_ties_are_told():
    table = table_of(entry("a", letters(100)), entry("b", letters(100)), entry("c", letters(10)))
    assert [line.certified_tied for line in table.ranked] == [True, True, False]
    assert [line.certified_rank for line in table.ranked] == [1, 1, 3]


def test_each_threat_model_has_a_table():
    entries = [
        entry("a", "cb", eps=8 / 255, norm="Linf"),
        entry("a", "cb"),
        entry("a", "cb", dataset="a_first"),
    ]
    titles = [table.title for table in lines(ranked(entries))]
    assert titles == ["a_first, L2, eps 0.5", "digits, L2, eps 0.5", "digits, Linf, eps 8/255"]


def test_the_order_of_the_entries_does_not_matter():
    entries = [
        entry("a", letters(100)),
        entry("b", letters(100)),
        entry("b", letters(100), seed=1),
        entry("c", letters(100, 300)),
        entry("d", letters(100), first=50),
        entry("e", letters(100), columns={"open_flags": "random_outputs"}),
    ]
    expected = lines(ranked(entries))
    for seed in range(5):
        random.Random(seed).shuffle(entries)
        assert lines(ranked(entries)) == expected
