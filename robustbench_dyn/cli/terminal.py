"""Tables of runs, sweeps, costs and checks, which are results: they go to stdout.

No text is markup: a model may be called "[/b]", and an error may hold any characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustbench_dyn.cli.consoles import (
    ESSENTIAL,
    Column,
    note,
    space,
    table,
)
from robustbench_dyn.results.headings import (
    INTERVAL,
    counted,
    format_eps,
    format_interval,
    format_joined,
    format_percent,
    heading,
)
from robustbench_dyn.results.summary import attacks_that_failed
from robustbench_dyn.results.telling_attempts import told_attempts, told_radii
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_dyn.evaluation.result import CurveEvaluation, Evaluation

_ACCURACIES = ("clean_accuracy", "certified_accuracy", "empirical_accuracy", "gap")
_INDENT = "  "
# Radii of the grid of a curve have as many digits as a float.
_DIGITS = 4
_COSTS = (
    Column("eps", right=True),
    "stage",
    Column("examples", importance=2, right=True),
    Column("decided", importance=2, right=True),
    Column(heading("forward_passes"), importance=1, right=True),
    Column(heading("backward_passes"), importance=1, right=True),
    Column("seconds", right=True),
    Column("share", right=True),
)


def sweep_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the leaderboard rows of a sweep, accuracies in percent."""
    importance = {
        "dataset": 8,
        "norm": 9,
        "seed": 7,
        "n_examples": 5,
        "clean_accuracy": 6,
        "gap": 4,
        "interval": 3,
        "certifiers": 1,
        "attacks": 1,
        "seconds": 2,
    }
    names = [
        *("model", "dataset", "norm", "eps", "seed", "n_examples"),
        *_ACCURACIES,
        *("interval", "seconds", "certifiers", "attacks"),
    ]
    columns = [_column(name, importance) for name in names]
    table(columns, [[_cell(row, name) for name in names] for row in rows], instead="--json")
    if rows:
        _explain_interval()


def bracket_table(evaluations: Sequence[Evaluation]) -> None:
    """Print the leaderboard rows of a run, accuracies in percent, and what they rest on."""
    first = evaluations[0].summary
    importance = {
        "clean_accuracy": 6,
        "interval": 5,
        "gap": 4,
        "undecided": 3,
        "seconds": 2,
        "forward_passes": 1,
        "backward_passes": 1,
    }
    counts = ("undecided", "seconds", "forward_passes", "backward_passes")
    names = ["eps", *_ACCURACIES, "interval", *counts]
    rows = [e.summary | {"undecided": _n_undecided(e)} for e in evaluations]
    n = first["n_examples"]
    table(
        [_column(name, importance) for name in names],
        [[_cell(row, name) for name in names] for row in rows],
        title=f"{first['model']} on {counted(n, 'example')} of {first['dataset']}, {first['norm']}",
        instead="--json",
    )
    _explain_interval()
    space()
    _tell_attacks(evaluations)
    for sentence in told_attempts([attempt for e in evaluations for attempt in e.attempts]):
        note(sentence)
    if first["flags"]:
        note(f"flags: {first['flags']}")


def curve_table(evaluation: CurveEvaluation, points: pd.DataFrame) -> None:
    """Print the points of a curve; points: as of reporting.curves.curve."""
    row = evaluation.summary
    examples = counted(row["n_examples"], "example")
    table(
        [Column(heading(column), right=True) for column in points.columns],
        [
            # Radii of a grid; their digits say nothing.
            [format_eps(eps, digits=_DIGITS), format_percent(certified), format_percent(empirical)]
            for eps, certified, empirical in points.itertuples(index=False)
        ],
        title=f"{row['model']} on {examples} of {row['dataset']}, {row['norm']}",
    )
    space()
    note(f"attacked with {format_joined(row['attacks'])}")
    for sentence in told_radii(evaluation.attempts):
        note(sentence)
    note(f"flags: {row['flags']}" if row["flags"] else "")


def cost_table(evaluations: Sequence[Evaluation], peak_memory_mb: float) -> None:
    """Print the cost of each stage, in this run and in the earlier runs that it resumes."""
    costs = [cost for evaluation in evaluations for cost in evaluation.costs]
    total = sum(cost.seconds for cost in costs) or 1.0
    rows = [
        (
            format_eps(cost.eps),
            cost.stage,
            str(cost.examples),
            str(cost.decided),
            f"{cost.forward_passes:,}",
            f"{cost.backward_passes:,}",
            f"{cost.seconds:.1f}",
            f"{cost.seconds / total:.0%}",
        )
        for cost in costs
    ]
    space()
    table(_COSTS, rows, title="cost of each stage", instead="--json")
    note(f"peak memory {peak_memory_mb:,.0f} MiB")


def _explain_interval() -> None:
    space()
    note(
        "The robust accuracy on these examples lies between certified % and empirical %. The 95 % "
        f"interval holds it for the distribution of the data, with 95 % confidence ({INTERVAL})."
    )


def _tell_attacks(evaluations: Sequence[Evaluation]) -> None:
    verdicts = [verdict for evaluation in evaluations for verdict in evaluation.verdicts]
    failed = attacks_that_failed(verdicts)
    labels = evaluations[0].summary["attacks"].split("+")
    ran = [label for label in labels if label.removesuffix("(failed)") not in failed]
    note(f"attacked with {format_joined('+'.join(ran))}")
    for attack, n in failed.items():
        messages = {step.message for v in verdicts for step in v.trail if step.stage == attack}
        on = f"on all {n} examples" if n > 1 else "on the only example"
        note(f"{attack} failed {on} it was run on: {min(messages)}", indent=_INDENT)


def _n_undecided(evaluation: Evaluation) -> int:
    return sum(verdict.status is Status.UNDECIDED for verdict in evaluation.verdicts)


def _column(name: str, importance: Mapping[str, float]) -> Column:
    """Return a column of the leaderboard; one without an importance is essential."""
    is_text = name in ("model", "dataset", "norm", "certifiers", "attacks")
    return Column(heading(name), importance.get(name, ESSENTIAL), right=not is_text)


def _cell(row: Mapping[str, Any], column: str) -> str:
    """Write the value of a column of the leaderboard as people read it."""
    value = row.get(column)
    if column in _ACCURACIES:
        return format_percent(value)
    if column == "interval":
        return format_interval(row["ci_low"], row["ci_high"])
    if column == "eps":
        return format_eps(row["eps"])
    if column == "seconds":
        return f"{row['seconds']:.1f}"
    if column in ("certifiers", "attacks"):
        return format_joined(str(value))
    return f"{value:,}" if isinstance(value, int) and column != "seed" else str(value)
