"""Tables of models as GitHub Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from robustbench_dyn.reporting.aggregation import Line, TableLines, lines
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.ranking import LEVEL
from robustbench_dyn.reporting.reported import Reported, reported_for
from robustbench_dyn.reporting.rows import table_of
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
from robustbench_dyn.results.cells import to_markdown_text
from robustbench_dyn.results.headings import (
    INTERVAL,
    format_eps,
    format_percent,
    members_of_suites,
)

_RANKED: Final = (*RANKS, MODEL, *NUMBERS, EMPIRICAL_RANK, *METHODS, *COSTS)
_NOT_RANKED: Final = (MODEL, *NUMBERS, *METHODS, *COSTS, OPEN_FLAGS)
# What the columns mean, a paragraph each.
ABOUT: Final = (
    "Certified: proved that no adversarial example exists. Empirical: survived the attacks of the "
    "suite. The true robust accuracy lies between the two; the gap is their difference, and the "
    f"95 % interval ({INTERVAL}) contains the robust accuracy on the distribution of the images "
    "with 95 % confidence. A model NAME~SIGMA is a smoothed classifier; each of its certificates "
    "is wrong with probability at most alpha, which the certifier names.",
    "The rank goes by certified %, the empirical rank by empirical %. A rank with = is a tied "
    "group: on these images, no two models of the group are separated by an exact McNemar test at "
    f"{100 * LEVEL:g} % after Holm's correction over the pairs of the table. Two models of "
    "different rank may be inseparable, too: `dynbench compare A B` tests two models. Seeds of a "
    "model are one line, with their mean and, in parentheses, the least and the most; it counts an "
    "example where all seeds do, and its interval contains the interval of each seed.",
    "Seconds and passes, forward and backward, are means per example. Written by `dynbench "
    "leaderboard`; the CSVs beside this page hold all columns.",
)


def to_markdown(entries: Sequence[Entry], reported: Sequence[Reported] = ()) -> str:
    """Return the tables of entries as one page of GitHub Markdown, accuracies in percent.

    entries: with ranks and open flags in their rows. One table a data set and threat model: ranked
    models first; apart from them models on other images, models with open flags, with what each
    flag asks for, and figures that are reported by papers. The attacks of each suite are listed
    once, at the end.
    """
    parts = ["# Leaderboards", *ABOUT]
    for table in lines(entries):
        parts += _table(table)
        parts += _reported("###", reported_for(reported, (table.dataset, table.norm, table.eps)))
    tables = {table_of(entry.row) for entry in entries}
    parts += _reported("##", [one for one in reported if one.table not in tables])
    if suites := members_of_suites(entry.row for entry in entries):
        parts.append("## Suites")
        parts.append(
            "\n".join(
                f"- {to_markdown_text(suite)}: {to_markdown_text(members)}"
                for suite, members in suites
            )
        )
    return "\n\n".join(parts) + "\n"


def _table(table: TableLines) -> Iterator[str]:
    yield f"## {to_markdown_text(table.title)}"
    if table.ranked:
        yield _rows(_RANKED, table.ranked)
    if table.other_images:
        yield "### On other images"
        yield (
            "Ranks compare models on these images alone; those above count, too, where they have "
            "verdicts on all of them."
        )
        yield _rows(_RANKED, table.other_images)
    if table.not_ranked:
        yield "### Not ranked"
        yield _rows(_NOT_RANKED, table.not_ranked)
        asked = dict(pair for line in table.not_ranked for pair in line.asks_for())
        if asked:
            yield "\n".join(
                f"- {to_markdown_text(flag)} asks for {to_markdown_text(asks_for)}"
                for flag, asks_for in asked.items()
            )
    corrections = [(line.label, text) for line in table.lines for text in line.corrections]
    if corrections:
        told = "; ".join(f"{to_markdown_text(m)}: {to_markdown_text(t)}" for m, t in corrections)
        yield f"Corrected after publication: {told}."


def _reported(level: str, reported: Iterable[Reported]) -> Iterator[str]:
    """Yield a part of what papers report, if there is anything."""
    rows = [
        [
            to_markdown_text(f"{one.dataset}, {one.norm}, eps {format_eps(one.eps)}"),
            to_markdown_text(one.model),
            format_percent(one.certified),
            format_percent(one.empirical),
            format_percent(one.clean),
            f"{one.n_examples:,}",
            f"[{to_markdown_text(one.source)}]({one.link})",
        ]
        for one in reported
    ]
    if rows:
        yield f"{level} Reported by papers, not run here"
        heads = ["table", "model", "certified %", "empirical %", "clean %", "examples", "source"]
        yield _lines(heads, ["---", "---", *["---:"] * 4, "---"], rows)


def _rows(columns: Sequence[ShownColumn], shown: Sequence[Line]) -> str:
    """Return a table with a heading, a row a line."""
    # Numbers need no escapes, which would make them hard to read in a pipe.
    rows = [
        [c.text(line) if c.number else to_markdown_text(c.text(line)) for c in columns]
        for line in shown
    ]
    rule = ["---:" if column.number else "---" for column in columns]
    return _lines([column.heading for column in columns], rule, rows)


def _lines(heads: Sequence[str], rule: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])
