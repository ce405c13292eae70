"""Evaluations in words: a title, a sentence, a row of a table, and the notes below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from robustbench_dyn.results.attempts import Attempt
from robustbench_dyn.results.flags import FLAGS, name_of
from robustbench_dyn.results.headings import (
    INTERVAL,
    counted,
    format_attacks,
    format_eps,
    format_interval,
    format_joined,
    format_percent,
    heading,
)
from robustbench_dyn.results.summary import count_statuses
from robustbench_dyn.results.telling_attempts import told_attempts, told_radii
from robustbench_dyn.results.verdicts import Status, Verdict
from robustbench_dyn.threat_models import ThreatModel

_ACCURACIES: Final = ("clean_accuracy", "certified_accuracy", "empirical_accuracy", "gap")
_STATUSES: Final = (Status.CERTIFIED, Status.UNDECIDED, Status.BROKEN, Status.MISCLASSIFIED)


class Told(Protocol):
    """The parts of an evaluation that its words are made of."""

    @property
    def threat_model(self) -> ThreatModel: ...  # noqa: D102
    @property
    def verdicts(self) -> Sequence[Verdict]: ...  # noqa: D102
    @property
    def summary(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def attempts(self) -> Sequence[Attempt]: ...  # noqa: D102


def title_of(summary: dict[str, Any]) -> str:
    """Name the model and the examples of a row, as in "lipflow on 100 examples of moons"."""
    examples = counted(summary["n_examples"], "example")
    return f"{summary['model']} on {examples} of {summary['dataset']}"


def threat_model_of(evaluation: Told) -> str:
    """Write the threat model, as in "Linf eps 8/255"."""
    return f"{evaluation.threat_model.norm} eps {format_eps(evaluation.threat_model.eps)}"


def bracket_of(evaluation: Told) -> str:
    """Write the bounds of the robust accuracy; the upper one is clean where no attack was run."""
    row = evaluation.summary
    low, high = row["certified_accuracy"], row["empirical_accuracy"]
    upper = row["clean_accuracy"] if high is None else high
    return f"robust accuracy in [{format_percent(low)} %, {format_percent(upper)} %]"


def counts_of(evaluation: Told) -> str:
    """Write the number of examples of each status; errors where there are any."""
    counts = count_statuses(evaluation.verdicts)
    parts = [f"{counts[status]} {status}" for status in _STATUSES]
    return ", ".join([*parts, *([f"{n} error"] if (n := counts[Status.ERROR]) else [])])


def table_of(evaluations: Sequence[Told]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of a table, one row an evaluation, all cells as text."""
    columns = ["eps", *_ACCURACIES, "interval", *_STATUSES]
    rows = []
    for evaluation in evaluations:
        row, counts = evaluation.summary, count_statuses(evaluation.verdicts)
        rows.append(
            [
                format_eps(evaluation.threat_model.eps),
                *(format_percent(row[column]) for column in _ACCURACIES),
                format_interval(row["ci_low"], row["ci_high"]),
                *(str(counts[status]) for status in _STATUSES),
            ]
        )
    return [heading(column) for column in columns], rows


def notes_of(evaluations: Sequence[Told], *, curve: bool = False) -> Iterator[str]:
    """Yield what is said below a table: methods, what each certifier came to, flags.

    curve: whether the table is one over eps, which has no interval.
    """
    row = evaluations[0].summary
    yield f"certified by {format_joined(row['certifiers'])}; attacked with {format_attacks(row)}"
    if not curve:
        yield (
            f"the interval ({INTERVAL}) contains the robust accuracy on the distribution of the "
            "examples with 95 % confidence"
        )
    attempts = [attempt for one in evaluations for attempt in one.attempts]
    yield from (told_radii if curve else told_attempts)(attempts)
    flags = dict.fromkeys(flag for one in evaluations for flag in one.summary["flags"].split())
    for flag in flags:
        known = FLAGS.get(name_of(flag))
        yield f"flag {flag}: {known.meaning}" if known else f"flag {flag}"
