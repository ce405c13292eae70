"""Progress bars and tables in the terminal; results go to stdout, everything else to stderr.

No text is markup: a model may be called "[/b]", and an error may hold any characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from robustbench_dyn.cli.consoles import line, plain_table, print_text, stderr, stdout, text
from robustbench_dyn.results.headings import (
    format_eps,
    format_interval,
    format_percent,
    heading,
)
from robustbench_dyn.results.summary import attacks_that_failed
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from robustbench_dyn.evaluation.progress import Progress as RunProgress
    from robustbench_dyn.evaluation.result import Evaluation
    from robustbench_dyn.plugins.contract import Finding as Rule
    from robustbench_dyn.properties import Finding
    from robustbench_dyn.sweeps.engines import Event
    from robustbench_dyn.sweeps.shards import Shard
    from robustbench_dyn.training.loop import EpochReport

_ACCURACIES = ("clean_accuracy", "certified_accuracy", "empirical_accuracy", "gap")
# Radii of the grid of a curve have as many digits as a float.
_DIGITS = 4


@contextmanager
def progress_display(*, enabled: bool) -> Iterator[Callable[[RunProgress], None] | None]:
    """Show examples decided, the bracket so far, and the time left."""
    if not enabled:
        yield None
        return
    console = stderr()
    with _from_first_report(_counting_bars(console)) as bars:
        tasks: dict[float, TaskID] = {}

        def show(report: RunProgress) -> None:
            bars.start()
            if report.eps not in tasks:
                tasks[report.eps] = bars.add_task("", total=report.total, details="")
            stage = line(f"eps {format_eps(report.eps, digits=_DIGITS)} {report.stage}")
            bracket = _bracket(report.counts)
            bars.update(
                tasks[report.eps], description=stage, completed=report.done, details=bracket
            )
            if not console.is_terminal:
                console.print(f"{stage} {report.done}/{report.total}: {bracket}", soft_wrap=True)

        yield show


@contextmanager
def sweep_display(*, enabled: bool) -> Iterator[Callable[[Event, int], None] | None]:
    """Show the finished shards, the running ones with their brackets, and the time left."""
    if not enabled:
        yield None
        return
    console = stderr()
    with _from_first_report(_counting_bars(console)) as bars:
        tasks: dict[Shard, TaskID] = {}
        overall = bars.add_task("shards", total=None, details="")

        def show(event: Event, n_shards: int) -> None:
            bars.start()
            shard, name = event.shard, line(event.shard)
            if event.state == "at work" and event.progress is not None:
                report = event.progress
                stage = f"eps {format_eps(report.eps, digits=_DIGITS)} {report.stage}"
                bars.update(
                    tasks[shard],
                    total=report.total,
                    completed=report.done,
                    details=line(f"{stage}: {_bracket(report.counts)}"),
                )
                return
            if event.state == "started":
                tasks[shard] = bars.add_task(name, total=None, details="")
            else:
                bars.remove_task(tasks.pop(shard))
            finished = event.state in ("done", "failed", "unsound")
            bars.update(overall, total=n_shards, advance=int(finished))
            if event.state not in ("started", "done"):
                print_text(console, f"{name} {event.state}: {event.message}")
            elif not console.is_terminal:
                print_text(console, f"{name} {event.state}")

        yield show


@contextmanager
def training_display() -> Iterator[Callable[[EpochReport], None]]:
    """Show the epoch, the loss and the time left."""
    console = stderr()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with _from_first_report(Progress(*columns, console=console)) as bars:
        task = bars.add_task("training")

        def show(report: EpochReport) -> None:
            text = f"epoch {report.epoch + 1}/{report.epochs}, loss {report.loss:.4f}"
            bars.start()
            bars.update(task, total=report.steps, completed=report.step, description=text)
            end_of_epoch = report.step % (report.steps // report.epochs) == 0
            if end_of_epoch and not console.is_terminal:
                console.print(f"{text}, {report.seconds:.0f} s")

        yield show


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


@contextmanager
def _from_first_report(bars: Progress) -> Iterator[Progress]:
    """Yield bars that the first report starts: what fails before it prints its error alone."""
    try:
        yield bars
    finally:
        if bars.live.is_started:
            bars.stop()


def _counting_bars(console: Console) -> Progress:
    """Make bars that show a count, the times, and the field `details`."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[details]}", markup=False),
        console=console,
    )


def _bracket(counts: dict[Status, int]) -> str:
    text = ", ".join(
        f"{status} {counts[status]}"
        for status in (Status.CERTIFIED, Status.BROKEN, Status.UNDECIDED, Status.MISCLASSIFIED)
    )
    total = sum(counts.values())
    if total:
        certified = counts[Status.CERTIFIED]
        robust = certified + counts[Status.UNDECIDED]
        text += f": robust accuracy in [{certified / total:.1%}, {robust / total:.1%}]"
    return text
