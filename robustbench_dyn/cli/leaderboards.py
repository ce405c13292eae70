"""Published tables in a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from robustbench_dyn.cli.consoles import Column, note, space, table
from robustbench_dyn.reporting.aggregation import Line, TableLines, lines
from robustbench_dyn.reporting.markdown import ABOUT
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.shown_columns import (
    COSTS,
    EMPIRICAL_RANK,
    METHODS,
    MODEL,
    NUMBERS,
    OPEN_FLAGS,
    RANKS,
    ShownColumn,
)
from robustbench_dyn.results.headings import heading, members_of_suites

_RANKED: Final = (*RANKS, MODEL, *NUMBERS, EMPIRICAL_RANK, *METHODS, *COSTS)
_NOT_RANKED: Final = (MODEL, *NUMBERS, OPEN_FLAGS, *METHODS, *COSTS)
_IMPORTANCE: Final = {
    heading("certified_rank"): 9,
    heading("clean_accuracy"): 8,
    heading("open_flags"): 8,
    heading("gap"): 7,
    heading("interval"): 6,
    heading("n_examples"): 5,
    heading("suite"): 3,
    heading("certifiers"): 3,
    heading("empirical_rank"): 2,
    "seconds / example": 1,
    "passes / example": 1,
}


def print_tables(entries: Sequence[Entry]) -> None:
    """Print one table a data set and threat model; entries: with ranks and open flags."""
    for paragraph in ABOUT:
        note(paragraph)
        space()
    for one in lines(entries):
        _print_table(one)
    note("suites:")
    for suite, members in members_of_suites(entry.row for entry in entries):
        note(f"{suite}: {members}", indent="  ")


def _print_table(one: TableLines) -> None:
    parts = (
        (_RANKED, one.ranked, one.title),
        (_RANKED, one.other_images, f"{one.title}, on other images"),
        (_NOT_RANKED, one.not_ranked, f"{one.title}, not ranked"),
    )
    for shown, of_part, title in parts:
        if of_part:
            _print_lines(shown, of_part, title)
            space()
    for flag, asks_for in dict(p for line in one.not_ranked for p in line.asks_for()).items():
        note(f"{flag} asks for {asks_for}", indent="  ")
    for line in one.lines:
        for correction in line.corrections:
            note(f"corrected after publication: {line.label}: {correction}", indent="  ")


def _print_lines(shown: Sequence[ShownColumn], of_table: Sequence[Line], title: str) -> None:
    columns = [
        Column(column.heading, _IMPORTANCE[column.heading], right=column.number)
        if column.heading in _IMPORTANCE
        else Column(column.heading, right=column.number)
        for column in shown
    ]
    rows = [[column.text(line) for column in shown] for line in of_table]
    table(columns, rows, title=title, instead="--json")
