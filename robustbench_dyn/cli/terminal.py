"""Progress bars and tables in the terminal; everything but results goes to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from robustbench_dyn.results.summary import attacks_that_failed
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from robustbench_dyn.evaluation import pipeline as cascade
    from robustbench_dyn.evaluation.api import Evaluation
    from robustbench_dyn.properties import Finding
    from robustbench_dyn.sweeps.engines import Event
    from robustbench_dyn.sweeps.shards import Shard
    from robustbench_dyn.training.loop import EpochReport


@contextmanager
def progress_display(*, enabled: bool) -> Iterator[Callable[[cascade.Progress], None] | None]:
    """Show examples decided, the bracket so far, and the time left."""
    if not enabled:
        yield None
        return
    console = Console(stderr=True)
    with _counting_bars(console) as bars:
        tasks: dict[float, object] = {}

        def show(report: cascade.Progress) -> None:
            if report.eps not in tasks:
                tasks[report.eps] = bars.add_task("", total=report.total, said="")
            bracket = _bracket(report.counts)
            bars.update(
                tasks[report.eps],  # type: ignore[arg-type]
                description=f"eps {report.eps:.4g} {report.stage}",
                completed=report.done,
                said=bracket,
            )
            if not console.is_terminal:
                console.print(f"eps {report.eps:.4g} {report.stage} {report.done}/{report.total}: "
                              f"{bracket}", soft_wrap=True)  # fmt: skip

        yield show


@contextmanager
def sweep_display(*, enabled: bool) -> Iterator[Callable[[Event, int], None] | None]:
    """Show the shards done, those at work with their brackets, and the time left."""
    if not enabled:
        yield None
        return
    console = Console(stderr=True)
    with _counting_bars(console) as bars:
        every = bars.add_task("shards", total=None, said="")
        tasks: dict[Shard, TaskID] = {}

        def show(event: Event, n_shards: int) -> None:
            shard = event.shard
            if event.state == "at work" and event.progress is not None:
                report = event.progress
                bars.update(
                    tasks[shard], total=report.total, completed=report.done,
                    said=f"eps {report.eps:.4g} {report.stage}: {_bracket(report.counts)}",
                )  # fmt: skip
                return
            if event.state == "started":
                tasks[shard] = bars.add_task(str(shard), total=None, said="")
            else:
                bars.remove_task(tasks.pop(shard))
            over = event.state in ("done", "failed", "unsound")
            bars.update(every, total=n_shards, advance=int(over))
            if event.state not in ("started", "done"):
                console.print(f"{shard} {event.state}: {event.message}", soft_wrap=True)
            elif not console.is_terminal:
                console.print(f"{shard} {event.state}", soft_wrap=True)

        yield show


@contextmanager
def training_display() -> Iterator[Callable[[EpochReport], None]]:
    """Show the epoch, the loss and the time left."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as bars:

        def show(report: EpochReport) -> None:
            text = f"epoch {report.epoch + 1}/{report.epochs}, loss {report.loss:.4f}"
            # The bar appears with the first report: nothing is shown of a training that never was.
            (task,) = bars.task_ids or [bars.add_task("training")]
            bars.update(task, total=report.steps, completed=report.step, description=text)
            ends = report.step % (report.steps // report.epochs) == 0
            if ends and not console.is_terminal:
                console.print(f"{text}, {report.seconds:.0f} s")

        yield show


def sweep_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the leaderboard rows of a sweep, accuracies in percent."""
    accuracies = ("clean_accuracy", "certified_accuracy", "empirical_accuracy", "gap")
    shown = [
        (row["model"], row["dataset"], row["norm"], f"{row['eps']:.4g}", str(row["seed"]),
         str(row["n_examples"]), *(_percent(row[column]) for column in accuracies),
         f"{row['seconds']:.1f}")
        for row in rows
    ]  # fmt: skip
    plain_table(("model", "dataset", "norm", "eps", "seed", "examples", "clean %", "certified %",
                 "empirical %", "gap", "seconds"), shown)  # fmt: skip


def bracket_table(evaluations: Sequence[Evaluation]) -> None:
    """Print the leaderboard rows of a run, accuracies in percent."""
    first = evaluations[0].summary
    n = first["n_examples"]
    title = f"{first['model']} on {n} examples of {first['dataset']}, {first['norm']}"
    table = Table(title=title)
    for heading in ("eps", "clean %", "certified %", "empirical %", "gap", "95 % interval",
                    "undecided", "forwards", "backwards", "seconds"):  # fmt: skip
        table.add_column(heading, justify="right")
    for evaluation in evaluations:
        row = evaluation.summary
        undecided = sum(v.status is Status.UNDECIDED for v in evaluation.verdicts)
        table.add_row(
            f"{row['eps']:.4g}",
            *(_percent(row[c]) for c in ("clean_accuracy", "certified_accuracy",
                                         "empirical_accuracy", "gap")),
            f"[{_percent(row['ci_low'])}, {_percent(row['ci_high'])}]",
            str(undecided), f"{row['forward_passes']:,}", f"{row['backward_passes']:,}",
            f"{row['seconds']:.1f}",
        )  # fmt: skip
    console = Console()
    # A pipe has no width of its own; 80 columns would cut the headings.
    console = console if console.is_terminal else Console(width=140)
    console.print(table)
    verdicts = [verdict for evaluation in evaluations for verdict in evaluation.verdicts]
    failed = attacks_that_failed(verdicts)
    ran = [a for a in first["attacks"].split("+") if a.removesuffix("(failed)") not in failed]
    console.print(f"certified by {first['certifiers']}; attacked with {'+'.join(ran) or 'none'}")
    for attack, n in failed.items():
        messages = {s.message for v in verdicts for s in v.trail if s.stage == attack}
        console.print(
            f"{attack} failed on all {n} examples that it was given: {min(messages)}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    for reason, names in _by_reason(evaluations[0].not_applicable).items():
        console.print(f"not applicable: {names}: {reason}", markup=False, soft_wrap=True)
    if first["flags"]:
        console.print(f"flags: {first['flags']}")


def _by_reason(not_applicable: dict[str, str]) -> dict[str, str]:
    names: dict[str, list[str]] = {}
    for name, reason in not_applicable.items():
        names.setdefault(reason, []).append(name)
    return {reason: ", ".join(of_reason) for reason, of_reason in names.items()}


def cost_table(evaluations: Sequence[Evaluation], peak_memory_mb: float) -> None:
    """Print what each stage took, in this run and in those that it goes on from."""
    costs = [cost for evaluation in evaluations for cost in evaluation.costs]
    total = sum(cost.seconds for cost in costs) or 1.0
    rows = [
        (f"{cost.eps:.4g}", cost.stage, str(cost.examples), str(cost.decided),
         f"{cost.forward_passes:,}", f"{cost.backward_passes:,}", f"{cost.seconds:.1f}",
         f"{cost.seconds / total:.0%}")
        for cost in costs
    ]  # fmt: skip
    plain_table(("eps", "stage", "examples", "decided", "forwards", "backwards", "seconds",
                 "share"), rows)  # fmt: skip
    Console().print(f"peak memory {peak_memory_mb:.0f} MiB")


@contextmanager
def findings_display() -> Iterator[Callable[[Finding], None]]:
    """Print a table of claims; in a terminal it says what is being tested meanwhile."""
    rows = list[tuple[str, ...]]()
    waiting = Console(stderr=True)
    with waiting.status("testing") as status:

        def show(finding: Finding) -> None:
            verdict = "holds" if finding.holds else "BROKEN"
            rows.append((finding.claim, finding.part, finding.points, f"{finding.defect:.1e}",
                         f"{finding.tolerance:.1e}", verdict, finding.note))  # fmt: skip
            status.update(f"{finding.claim} {finding.part} {finding.points}: {verdict}")

        yield show
    plain_table(("claim", "part", "points", "defect", "tolerance", "", "note"), rows)


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings."""
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(table)


def page(markdown: str) -> None:
    """Print a page: laid out in a terminal, as it is in a pipe."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        console.out(markdown, highlight=False, end="")


def _counting_bars(console: Console) -> Progress:
    """Make bars that count, and that say something behind the time left."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}"),
        console=console,
    )  # fmt: skip


def _bracket(counts: dict[Status, int]) -> str:
    text = ", ".join(
        f"{status} {counts[status]}"
        for status in (Status.CERTIFIED, Status.BROKEN, Status.UNDECIDED, Status.MISCLASSIFIED)
    )
    total = sum(counts.values())
    if total:
        certified = counts[Status.CERTIFIED]
        standing = certified + counts[Status.UNDECIDED]
        text += f": robust accuracy in [{certified / total:.1%}, {standing / total:.1%}]"
    return text


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
