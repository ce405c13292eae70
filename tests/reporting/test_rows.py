"""Rows of tables: each rule, with a cell that breaks it and the line that stays silent."""

import csv
import io

import pytest
from oracles.entries import entry

from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.rows import (
    COLUMNS,
    OF_TABLES,
    PUBLISHED_COLUMNS,
    checked_row,
    identity,
    images,
    read_rows,
    to_csv,
)
from robustbench_dyn.results.summary import SUMMARY_COLUMNS, binomial_limit

# 50 of 100 certified, 60 standing, 90 clean.
ROW = entry("m", "c" * 50 + "u" * 10 + "b" * 30 + "m" * 10, columns={"certified_rank": 1}).row
BARE = entry("m", "c" * 50 + "u" * 40 + "m" * 10, attacks=(), suite="none").row


def test_columns_are_those_of_runs_and_then_those_of_tables():
    assert (*SUMMARY_COLUMNS, *OF_TABLES) == PUBLISHED_COLUMNS
    assert tuple(COLUMNS) == PUBLISHED_COLUMNS


@pytest.mark.parametrize("row", [ROW, BARE])
def test_a_row_reads_back_as_it_was(row, tmp_path):
    (tmp_path / "t.csv").write_text(to_csv([row]))
    assert read_rows(tmp_path / "t.csv") == [row]
    assert checked_row(row, "here") == row


BROKEN = [
    # Shares of 100 examples.
    ("clean_accuracy", 0.905, "is no share of 100 examples"),
    ("certified_accuracy", 0.501, "is no share of 100 examples"),
    ("empirical_accuracy", 0.6000001, "is no share of 100 examples"),
    ("n_examples", 7, "clean_accuracy=0.9 is no share of 7 examples"),
    # What follows from the others.
    ("certified_accuracy", 0.49, "gap=0.1 must be 0.11"),
    ("empirical_accuracy", 0.61, "gap=0.1 must be 0.11"),
    ("gap", 0.2, "gap=0.2 must be 0.1, empirical_accuracy - certified_accuracy"),
    ("gap", None, "gap=None must be 0.1"),
    ("empirical_accuracy", None, "gap=0.1 must be None"),
    ("ci_low", 0.4, "ci_low=0.4 must be 0.39832112950"),
    ("ci_low", 0.0, "the Clopper-Pearson limit"),
    ("ci_high", 0.7, "ci_high=0.7 must be 0.6967"),
    ("ci_high", 1.0, "the Clopper-Pearson limit"),
    ("n_examples", 200, "ci_low=0.39832112950330095 must be 0.428658430907"),
    # Orders.
    ("certified_accuracy", 0.7, "certified_accuracy=0.7 exceeds empirical_accuracy=0.6"),
    ("certified_accuracy", 0.95, "exceeds"),
    ("empirical_accuracy", 0.95, "empirical_accuracy=0.95 exceeds clean_accuracy=0.9"),
    ("clean_accuracy", 0.55, "exceeds clean_accuracy=0.55"),
    ("ci_low", 0.8, "exceeds ci_high"),
    ("eps", 0.0, "must be positive"),
    # Types and ranges.
    ("clean_accuracy", 90, "a fraction between 0 and 1"),
    ("clean_accuracy", True, "a fraction between 0 and 1"),
    ("clean_accuracy", "0.9", "a fraction between 0 and 1"),
    ("certified_accuracy", -0.1, "a fraction between 0 and 1"),
    ("audit_share", 1.1, "a fraction between 0 and 1"),
    ("n_examples", 100.5, "a whole number"),
    ("n_examples", 0, "at least 1"),
    ("n_examples", True, "a whole number"),
    ("first_example", -1, "at least 0"),
    ("first_example", 0.5, "a whole number"),
    ("forward_passes", 1.5, "a whole number"),
    ("backward_passes", -1, "at least 0"),
    ("parameters", 1.5, "a whole number"),
    ("seed", 0.5, "a whole number"),
    ("seconds", -0.1, "at least 0"),
    ("seconds", float("inf"), "a finite number"),
    ("lipschitz_bound", -1.0, "at least 0"),
    ("eps", float("inf"), "a finite number"),
    ("norm", "L3", "one of Linf, L2, L1"),
    ("norm", 2, "one of Linf, L2, L1"),
    ("model", "../m", "a name"),
    ("dataset", "a b", "a name"),
    ("family", 3, "a text"),
    ("suite", 3, "a text"),
    # Hashes.
    ("weights_sha256", "1" * 63, "64 hexadecimal digits"),
    ("weights_sha256", "A" * 64, "64 hexadecimal digits"),
    ("weights_sha256", "1" * 64 + "\n", "64 hexadecimal digits"),
    ("data_sha256", "x" * 64, "64 hexadecimal digits"),
    ("training_record", "0", "64 hexadecimal digits"),
    ("evidence_sha256", "0" * 65, "64 hexadecimal digits"),
    ("evidence_sha256", 5, "64 hexadecimal digits"),
    # Times.
    ("evaluated_at", "yesterday", "a time such as"),
    ("evaluated_at", "2026-13-01T00:00:00+00:00", "a time such as"),
    ("evaluated_at", "2026-01-31T12:00:00", "a time such as"),
    ("evaluated_at", 5, "a time such as"),
    # Flags.
    ("flags", "unheard_of", "known flags"),
    ("flags", "errors:1 sound_beats_nothing", "known flags"),
    ("flags", "beats_white_box:1", "known flags"),
    ("flags", 5, "known flags"),
    # Ranks.
    ("certified_rank", 0, "at least 1"),
    ("empirical_rank", 0, "at least 1"),
    ("empirical_rank", 1.5, "a whole number"),
    ("open_flags", "no_attack", "certified_rank=1 must be empty"),
    # What each row needs.
    *((name, empty, "is empty") for name in (
        "model", "dataset", "norm", "eps", "n_examples", "clean_accuracy", "certified_accuracy",
        "ci_low", "ci_high", "certifiers", "attacks", "forward_passes", "backward_passes",
        "seconds",
    ) for empty in (None, "", float("nan"))),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value", "words"), BROKEN)
def test_a_row_that_breaks_a_rule_is_refused(column, value, words):
    with pytest.raises(InputError) as caught:
        checked_row(ROW | {column: value}, "t.csv, line 2")
    message = str(caught.value)
    assert message.startswith("t.csv, line 2: ")
    assert words in message
    assert column in message or any(name in words for name in COLUMNS)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        # What others rest on is rounded in the last digits of some tables.
        ("certified_accuracy", 0.5 + 1e-12),
        ("gap", 0.09999999999999998),
        ("ci_low", ROW["ci_low"] + 1e-12),
        ("first_example", 500),
        ("seed", -3),
        ("seed", None),
        ("flags", "errors:1 zero_gradients:0.4 square_beats_white_box:3"),
        ("flags", ""),
        ("evaluated_at", ""),
        ("evaluated_at", "2026-01-31T12:00:00Z"),
        ("weights_sha256", ""),
        ("lipschitz_bound", None),
        ("open_flags", ""),
        ("certified_rank", 7),
        ("certified_rank", None),
    ],
)
def test_a_row_that_breaks_no_rule_is_taken(column, value):
    assert checked_row(ROW | {column: value}, "here")[column] == value


def test_without_attacks_the_interval_reaches_to_the_clean_accuracy():
    assert BARE["ci_high"] == binomial_limit(90, 100, upper=True)
    with pytest.raises(InputError, match="ci_high"):
        checked_row(BARE | {"ci_high": ROW["ci_high"]}, "here")


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("n_examples", "1_00"),
        ("n_examples", " 100"),
        ("n_examples", "100.5"),
        ("n_examples", "١٠٠"),
        ("n_examples", "1e2"),
        ("clean_accuracy", "0_9"),
        ("clean_accuracy", "0.9 "),
        ("clean_accuracy", "0,9"),
        ("clean_accuracy", "90%"),
        ("eps", "8/255"),
        ("seconds", "0x10"),
        ("certified_rank", "1="),
        ("seed", "9" * 5000),
    ],
)
def test_a_cell_that_is_no_number_is_refused(column, cell, tmp_path):
    write_cell(tmp_path / "t.csv", column, cell)
    with pytest.raises(InputError, match=rf"t\.csv, line 2: {column}=.* is no number"):
        read_rows(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("column", "cell", "value"),
    [
        ("n_examples", "100.0", 100),
        ("clean_accuracy", "9e-1", 0.9),
        ("eps", "+0.5", 0.5),
        ("seed", "-1", -1),
        ("lipschitz_bound", "", None),
        ("seed", "nan", "no number"),
        ("lipschitz_bound", "nan", None),
    ],
)
def test_a_cell_that_is_a_number_is_read(column, cell, value, tmp_path):
    write_cell(tmp_path / "t.csv", column, cell)
    if value == "no number":
        with pytest.raises(InputError, match="no number"):
            read_rows(tmp_path / "t.csv")
    else:
        assert read_rows(tmp_path / "t.csv")[0][column] == value


def write_cell(path, column, cell):
    """Write ROW with another cell."""
    heading, line = csv.reader(io.StringIO(to_csv([ROW])))
    line[heading.index(column)] = cell
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heading, line])


def test_tables_of_earlier_versions_are_read(tmp_path):
    earlier = SUMMARY_COLUMNS[: SUMMARY_COLUMNS.index("first_example")]
    _, line = csv.reader(io.StringIO(to_csv([ROW])))
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([earlier, line[: len(earlier)]])
    (row,) = read_rows(tmp_path / "t.csv")
    assert list(row) == list(PUBLISHED_COLUMNS)
    assert {name: row[name] for name in earlier} == {name: ROW[name] for name in earlier}
    assert (row["first_example"], row["suite"], row["evidence_sha256"]) == (None, "", "")
    assert images(row).first_example == 0
    # The control: a column that they have.
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([earlier[1:], line[1 : len(earlier)]])
    with pytest.raises(InputError, match="lacks the column model"):
        read_rows(tmp_path / "t.csv")


def test_more_columns_stand_behind_the_others_and_need_a_text(tmp_path):
    rows = [ROW | {"why": '=a,\r\n"b"'}]
    (tmp_path / "t.csv").write_text(to_csv(rows, more=["why"]), newline="")
    assert read_rows(tmp_path / "t.csv", more=["why"]) == rows
    assert read_rows(tmp_path / "t.csv") == [ROW]
    (tmp_path / "t.csv").write_text(to_csv([ROW | {"why": ""}], more=["why"]))
    with pytest.raises(InputError, match=r"line 2: why is empty"):
        read_rows(tmp_path / "t.csv", more=["why"])
    (tmp_path / "t.csv").write_text(to_csv([ROW]))
    with pytest.raises(InputError, match="lacks the column why"):
        read_rows(tmp_path / "t.csv", more=["why"])


def test_a_claim_is_the_same_from_a_store_and_from_a_table(tmp_path):
    for row in (ROW, ROW | {"seed": None, "weights_sha256": None, "suite": None}):
        (tmp_path / "t.csv").write_text(to_csv([row]))
        (read,) = read_rows(tmp_path / "t.csv")
        assert identity(read) == identity(row)
        assert images(read) == images(row)
    assert identity(ROW | {"seed": None}).seed is None


@pytest.mark.parametrize(
    ("column", "value", "same"),
    [
        ("first_example", 5, False),
        ("n_examples", 99, False),
        ("data_sha256", "7" * 64, False),
        ("eps", 0.25, False),
        ("norm", "Linf", False),
        ("dataset", "moons", False),
        ("model", "n", True),
        ("seed", 1, True),
        ("weights_sha256", "7" * 64, True),
    ],
)
def test_rows_of_equal_images_can_be_compared(column, value, same):
    assert (images(ROW | {column: value}) == images(ROW)) is same
