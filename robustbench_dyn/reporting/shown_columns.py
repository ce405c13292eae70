"""The columns that Markdown and LaTeX show of a line, with their headings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from robustbench_dyn.reporting.aggregation import Line, Spread
from robustbench_dyn.results.headings import (
    NOTHING,
    format_interval,
    format_joined,
    format_number,
    format_rank,
    format_suite,
    heading,
)


class ShownColumn(NamedTuple):
    """A column of a table for readers. text: of a line; a number stands to the right."""

    heading: str
    text: Callable[[Line], str]
    number: bool = True


def _model(line: Line) -> str:
    return f"{line.label} ({len(line.seeds)} seeds)" if len(line.seeds) > 1 else line.label


def _examples(line: Line) -> str:
    first, n = line.images.first_example, line.images.n_examples
    return f"{n} from {first}" if first else str(n)


def _spread(spread: Spread | None) -> str:
    return NOTHING if spread is None else spread.text()


MODEL: Final = ShownColumn(heading("model"), _model, number=False)
RANKS: Final = (
    ShownColumn(
        heading("certified_rank"),
        lambda line: format_rank(line.certified_rank, tied=line.certified_tied),
    ),
)
NUMBERS: Final = (
    ShownColumn(heading("certified_accuracy"), lambda line: line.certified.text()),
    ShownColumn(heading("empirical_accuracy"), lambda line: _spread(line.empirical)),
    ShownColumn(heading("clean_accuracy"), lambda line: line.clean.text()),
    ShownColumn(heading("gap"), lambda line: _spread(line.gap)),
    ShownColumn(heading("interval"), lambda line: format_interval(*line.interval)),
    ShownColumn(heading("n_examples"), _examples),
)
METHODS: Final = (
    ShownColumn(heading("suite"), lambda line: format_suite(line.row), number=False),
    ShownColumn(
        heading("certifiers"), lambda line: format_joined(line.row["certifiers"]), number=False
    ),
)
EMPIRICAL_RANK: Final = ShownColumn(
    heading("empirical_rank"),
    lambda line: format_rank(line.empirical_rank, tied=line.empirical_tied),
)
COSTS: Final = (
    ShownColumn("seconds / example", lambda line: format_number(line.seconds)),
    ShownColumn("passes / example", lambda line: format_number(_passes(line))),
)
OPEN_FLAGS: Final = ShownColumn(
    heading("open_flags"), lambda line: " ".join(line.open_flags) or NOTHING, number=False
)


def _passes(line: Line) -> float:
    return line.forward_passes + line.backward_passes
