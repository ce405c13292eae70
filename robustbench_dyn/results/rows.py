"""Rows of a store: the runs, violations, votes, verdicts and records that they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.spec import Record
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict

Row = Sequence[Any]


class Run(NamedTuple):
    """A finished run: a range of examples of one evaluation at one eps, and its summary row.

    Its examples are first_example, first_example + 1, ..., n_examples of them.
    """

    key: str
    eps: float
    first_example: int
    n_examples: int
    summary: dict[str, Any]

    @property
    def examples(self) -> range:
        """The ids of its examples."""
        return range(self.first_example, self.first_example + self.n_examples)


def joined(ranges: Iterable[range]) -> list[range]:
    """Return the union of ranges as ranges that neither touch nor overlap, in their order."""
    union = list[range]()
    for part in sorted(ranges, key=lambda part: part.start):
        if union and part.start <= union[-1].stop:
            union[-1] = range(union[-1].start, max(union[-1].stop, part.stop))
        else:
            union.append(part)
    return union


class Violation(NamedTuple):
    """An adversarial example inside a certified ball."""

    example_id: int
    certified_radius: float
    adversarial_distance: float
    attack: str
    path: str
    x_adv: bytes


class Votes(NamedTuple):
    """How a classifier has voted so far on noisy copies of one example.

    draws: how many copies. counts: (n_classes + 1,), last those without a class.
    """

    draws: int
    counts: tuple[int, ...]
    seconds: float


_in_a_row = attrgetter(*LAYOUTS["verdicts"].columns[1:-1])


def row_of(key: str, verdict: Verdict) -> Row:
    """Return the row of a verdict."""
    return (key, *_in_a_row(verdict), trail_text(verdict.trail))


def trail_text(trail: Sequence[Step]) -> str:
    """Return the steps of a trail as JSON."""
    return json.dumps([step.values() for step in trail]) if trail else "[]"


# Faster than Status(text), of which a folder of tables needs millions.
_STATUS = {str(status): status for status in Status}


def verdict_of(row: Row) -> Verdict:
    """Return the verdict of a row; raises KeyError or InputError where it holds none."""
    (
        _,
        eps,
        example_id,
        label,
        prediction,
        status,
        certified_radius,
        certifier,
        adversarial_distance,
        attack,
        forward_passes,
        backward_passes,
        seconds,
        reason,
        x_adv,
        next_stage,
        trail,
    ) = row
    nan = float("nan")  # SQLite keeps NaN as NULL
    return Verdict(
        example_id,
        label,
        prediction,
        _STATUS[status],
        eps,
        nan if certified_radius is None else certified_radius,
        certifier,
        nan if adversarial_distance is None else adversarial_distance,
        attack,
        forward_passes,
        backward_passes,
        seconds,
        reason,
        x_adv,
        next_stage,
        _trail_of(trail),
    )


@lru_cache(maxsize=4096)
def _trail_of(text: str) -> tuple[Step, ...]:
    """Return the steps of a trail; many examples have the same one."""
    return tuple(
        Step(stage, Outcome(outcome), eps, message, *margin)
        for stage, outcome, eps, message, *margin in json.loads(text)
    )


def votes_of(row: Row) -> Votes:
    """Return the votes of a row; raises ValueError or TypeError where it holds none."""
    _, _, _, draws, counts, seconds = row
    return Votes(draws, tuple(json.loads(counts)), seconds)


def run_of(row: Row) -> Run:
    """Return the run of a row; raises ValueError or TypeError where it holds none."""
    key, eps, first_example, n_examples, summary = row
    content = json.loads(summary)
    if not isinstance(content, dict):
        raise TypeError(f"a summary is a mapping, not {content!r}")
    return Run(key, eps, first_example, n_examples, content)


def record_of(row: Row) -> Record:
    """Return the record of an evaluation; raises ValueError, TypeError or KeyError without one."""
    return Record.from_json(row[1])


def cost_of(row: Row) -> StageCost:
    """Return what a row says that a stage took."""
    return StageCost(*row[1:])


def sign_of(row: Row) -> Sign:
    """Return the sign of masked gradients of a row."""
    return Sign(*row[2:])


def violation_of(row: Row) -> Violation:
    """Return the counterexample of a row."""
    return Violation(*row[2:])


def flag_of(row: Row) -> str:
    """Return the flag of a row."""
    return str(row[1])


# How each table's rows are read.
READERS: Final[Mapping[str, Callable[[Row], object]]] = {
    "evaluations": record_of,
    "verdicts": verdict_of,
    "runs": run_of,
    "violations": violation_of,
    "costs": cost_of,
    "votes": votes_of,
    "flags": flag_of,
    "signs": sign_of,
}
# What they raise for content that no version has written.
UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
    OverflowError,
)
