"""Tables of models as LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from robustbench_dyn.reporting.aggregation import Line, TableLines, lines
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.ranking import LEVEL
from robustbench_dyn.reporting.shown_columns import METHODS, MODEL, NUMBERS, RANKS, ShownColumn
from robustbench_dyn.results.cells import to_latex_text
from robustbench_dyn.results.headings import INTERVAL, format_eps, members_of_suites

_COLUMNS: Final = (*RANKS, MODEL, *NUMBERS)
_NO_LABEL = re.compile(r"[^A-Za-z0-9.:-]+")


def to_latex(entries: Sequence[Entry]) -> str:
    r"""Return the tables of entries as LaTeX, one table a data set and threat model.

    entries: with ranks and open flags in their rows. A document needs \usepackage{booktabs}. Ranked
    models come first; below them, under a heading, models on other images, and models with open
    flags. The caption says what the columns mean, which suite and certifiers the short names of the
    last column stand for, and which attacks each suite has.
    """
    parts = [r"% Written by dynbench leaderboard; needs \usepackage{booktabs}."]
    parts += ["\n".join(_table(table)) for table in lines(entries)]
    return "\n\n".join(parts) + "\n"


def _table(table: TableLines) -> Iterator[str]:
    methods = _methods(table)
    # Written out, suites and certifiers are wider than a page.
    short = ShownColumn("methods", lambda line: methods[_methods_of(line)], number=False)
    columns = (*_COLUMNS, short)
    alignment = "".join("r" if column.number else "l" for column in columns)
    label = _NO_LABEL.sub("-", f"{table.dataset}-{table.norm}-{format_eps(table.eps)}")
    yield r"\begin{table}"
    yield r"\centering"
    yield r"\footnotesize"
    yield r"\setlength{\tabcolsep}{2pt}"
    yield rf"\caption{{{_caption(table, methods)}}}"
    yield rf"\label{{tab:{label}}}"
    # Without space at its edges, a table is as wide as its rules.
    yield rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}"
    yield r"\toprule"
    yield _row([column.heading for column in columns])
    yield r"\midrule"
    groups = (
        ("", table.ranked),
        ("On other images", table.other_images),
        ("Not ranked", table.not_ranked),
    )
    for k, (title, shown) in enumerate(group for group in groups if group[1]):
        if k:
            yield r"\addlinespace"
        if title:
            yield rf"\multicolumn{{{len(columns)}}}{{@{{}}l}}{{\emph{{{title}}}}} \\"
        yield from (_row([column.text(line) for column in columns]) for line in shown)
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield r"\end{table}"


def _methods_of(line: Line) -> str:
    suite, certifiers = (column.text(line) for column in METHODS)
    return f"attacked with {suite}, certified by {certifiers}"


def _methods(table: TableLines) -> dict[str, str]:
    """Return short names of the suites and certifiers that the lines of a table had."""
    distinct = dict.fromkeys(map(_methods_of, table.lines))
    return {methods: f"m{k}" for k, methods in enumerate(distinct, start=1)}


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(to_latex_text, cells)) + r" \\"


def _caption(table: TableLines, methods: Mapping[str, str]) -> str:
    about = (
        f"{table.title}. Robust accuracy lies between certified (proved) and empirical (survived "
        f"the attacks of the suite); intervals are {INTERVAL}'s. No two models of one rank, marked "
        f"=, are separated by an exact McNemar test at {100 * LEVEL:g} % after Holm's correction."
    )
    about += "".join(f" {short}: {told}." for told, short in methods.items())
    suites = members_of_suites(entry.row for line in table.lines for entry in line.entries)
    about += "".join(f" Suite {suite}: {members}." for suite, members in suites)
    flags = dict.fromkeys(flag for line in table.not_ranked for flag in line.open_flags)
    if flags:
        about += f" Not ranked because of open flags: {', '.join(flags)}."
    return to_latex_text(about)
