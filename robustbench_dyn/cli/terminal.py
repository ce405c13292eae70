"""Tables in the terminal; results go to stdout, everything else to stderr.

No text is markup: a model may be called "[/b]", and an error may hold any characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.table import Table

from robustbench_dyn.cli.consoles import plain_table, print_text, stderr, stdout, text
from robustbench_dyn.results.headings import (
    format_eps,
    format_interval,
    format_percent,
    heading,
)
from robustbench_dyn.results.summary import attacks_that_failed, certifiers_that_gave_up
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from robustbench_dyn.evaluation.api import Evaluation
    from robustbench_dyn.plugins.contract import Finding as Rule
    from robustbench_dyn.properties import Finding

_ACCURACIES = ("clean_accuracy", "certified_accuracy", "empirical_accuracy", "gap")


def sweep_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the leaderboard rows of a sweep, accuracies in percent."""
    columns = ("model", "dataset", "norm", "eps", "seed", "n_examples", *_ACCURACIES, "seconds")
    cells = [
        (
            row["model"],
            row["dataset"],
            row["norm"],
            format_eps(row["eps"]),
            str(row["seed"]),
            str(row["n_examples"]),
            *(format_percent(row[column]) for column in _ACCURACIES),
            f"{row['seconds']:.1f}",
        )
        for row in rows
    ]
    plain_table([*map(heading, columns)], cells)


def bracket_table(evaluations: Sequence[Evaluation]) -> None:
    """Print the leaderboard rows of a run, accuracies in percent."""
    first = evaluations[0].summary
    n = first["n_examples"]
    title = f"{first['model']} on {n} examples of {first['dataset']}, {first['norm']}"
    columns = ("eps", *_ACCURACIES, "interval", "undecided", "forwards", "backwards", "seconds")
    table = Table(title=text(title))
    for column in columns:
        table.add_column(heading(column), justify="right")
    for evaluation in evaluations:
        row = evaluation.summary
        table.add_row(
            format_eps(row["eps"]),
            *(format_percent(row[column]) for column in _ACCURACIES),
            format_interval(row["ci_low"], row["ci_high"]),
            str(sum(v.status is Status.UNDECIDED for v in evaluation.verdicts)),
            f"{row['forward_passes']:,}",
            f"{row['backward_passes']:,}",
            f"{row['seconds']:.1f}",
        )
    console = stdout(width_of_pipe=140)
    console.print(table)
    verdicts = [verdict for evaluation in evaluations for verdict in evaluation.verdicts]
    failed = attacks_that_failed(verdicts)
    ran = [a for a in first["attacks"].split("+") if a.removesuffix("(failed)") not in failed]
    print_text(
        console, f"certified by {first['certifiers']}; attacked with {'+'.join(ran) or 'none'}"
    )
    for attack, n in failed.items():
        messages = {step.message for v in verdicts for step in v.trail if step.stage == attack}
        print_text(console, f"{attack} failed on all {n} examples it was run on: {min(messages)}")
    for said, n in certifiers_that_gave_up(verdicts).items():
        print_text(console, f"{said}, on {n} of {len(verdicts)} examples")
    for reason, names in _by_reason(evaluations[0].not_applicable).items():
        print_text(console, f"not applicable: {names}: {reason}")
    if first["flags"]:
        print_text(console, f"flags: {first['flags']}")


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
    headings = "eps,stage,examples,decided,forwards,backwards,seconds,share"
    plain_table(headings.split(","), rows)
    stdout().print(f"peak memory {peak_memory_mb:.0f} MiB")


@contextmanager
def findings_display() -> Iterator[Callable[[Finding], None]]:
    """Print a table of claims; meanwhile, a terminal shows the claim under test."""
    rows = list[tuple[str, ...]]()
    with stderr().status(text("testing")) as status:

        def show(finding: Finding) -> None:
            verdict = "holds" if finding.holds else "BROKEN"
            tested = (finding.claim, finding.part, finding.points)
            defect, tolerance = f"{finding.defect:.1e}", f"{finding.tolerance:.1e}"
            rows.append((*tested, defect, tolerance, verdict, finding.note))
            status.update(text(f"{' '.join(tested)}: {verdict}"))

        yield show
    plain_table(("claim", "part", "points", "defect", "tolerance", "", "note"), rows)


@contextmanager
def contract_display(title: str) -> Iterator[Callable[[str, Rule], None]]:
    """Print a table of rules and whether they are kept; a terminal shows the rule under test."""
    rows = list[tuple[str, ...]]()
    with stderr().status(text(f"testing {title}")) as status:

        def show(part: str, finding: Rule) -> None:
            verdict = {True: "holds", False: "BROKEN", None: "not tested"}[finding.holds]
            caught = ", ".join(finding.caught)
            rows.append((finding.rule, part, verdict, finding.detail, caught))
            status.update(text(f"testing {title}: {finding.rule}: {verdict}"))

        yield show
    plain_table((title, "for", "", "detail", "caught in a control that"), rows)


def _by_reason(not_applicable: dict[str, str]) -> dict[str, str]:
    names: dict[str, list[str]] = {}
    for name, reason in not_applicable.items():
        names.setdefault(reason, []).append(name)
    return {reason: ", ".join(group) for reason, group in names.items()}
