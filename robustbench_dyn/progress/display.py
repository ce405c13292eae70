"""Progress bars of runs, sweeps and trainings, on stderr.

No text is markup: a model may be called "[/b]", and an error may hold any characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from robustbench_dyn.errors import printable
from robustbench_dyn.progress.report import Progress as RunProgress
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.verdicts import Status

# Radii of the grid of a curve have as many digits as a float.
_DIGITS = 4


class ShardEvent(Protocol):
    """A change in the state of a shard, as sweeps.engines.Event."""

    @property
    def shard(self) -> object: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def message(self) -> str: ...  # noqa: D102
    @property
    def progress(self) -> RunProgress | None: ...  # noqa: D102


class Epoch(Protocol):
    """The state of a training, as training.loop.EpochReport."""

    @property
    def epoch(self) -> int: ...  # noqa: D102
    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def loss(self) -> float: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102


@contextmanager
def progress_display(*, enabled: bool) -> Iterator[Callable[[RunProgress], None] | None]:
    """Show examples decided, the bracket so far, and the time left."""
    if not enabled:
        yield None
        return
    console = _stderr()
    with _from_first_report(_counting_bars(console)) as bars:
        tasks: dict[float, TaskID] = {}

        def show(report: RunProgress) -> None:
            bars.start()
            if report.eps not in tasks:
                tasks[report.eps] = bars.add_task("", total=report.total, details="")
            stage = _line(f"eps {format_eps(report.eps, digits=_DIGITS)} {report.stage}")
            bracket = _bracket(report.counts)
            bars.update(
                tasks[report.eps], description=stage, completed=report.done, details=bracket
            )
            if not console.is_terminal:
                console.print(f"{stage} {report.done}/{report.total}: {bracket}", soft_wrap=True)

        yield show


@contextmanager
def sweep_display(*, enabled: bool) -> Iterator[Callable[[ShardEvent, int], None] | None]:
    """Show the finished shards, the running ones with their brackets, and the time left."""
    if not enabled:
        yield None
        return
    console = _stderr()
    with _from_first_report(_counting_bars(console)) as bars:
        tasks: dict[object, TaskID] = {}
        overall = bars.add_task("shards", total=None, details="")

        def show(event: ShardEvent, n_shards: int) -> None:
            bars.start()
            shard, name = event.shard, _line(event.shard)
            if event.state == "at work" and event.progress is not None:
                report = event.progress
                stage = f"eps {format_eps(report.eps, digits=_DIGITS)} {report.stage}"
                bars.update(
                    tasks[shard],
                    total=report.total,
                    completed=report.done,
                    details=_line(f"{stage}: {_bracket(report.counts)}"),
                )
                return
            if event.state == "started":
                tasks[shard] = bars.add_task(name, total=None, details="")
            else:
                bars.remove_task(tasks.pop(shard))
            finished = event.state in ("done", "failed", "unsound")
            bars.update(overall, total=n_shards, advance=int(finished))
            if event.state not in ("started", "done"):
                _print(console, f"{name} {event.state}: {event.message}")
            elif not console.is_terminal:
                _print(console, f"{name} {event.state}")

        yield show


@contextmanager
def training_display() -> Iterator[Callable[[Epoch], None]]:
    """Show the epoch, the loss and the time left."""
    console = _stderr()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with _from_first_report(Progress(*columns, console=console)) as bars:
        task = bars.add_task("training")

        def show(report: Epoch) -> None:
            text = f"epoch {report.epoch + 1}/{report.epochs}, loss {report.loss:.4f}"
            bars.start()
            bars.update(task, total=report.steps, completed=report.step, description=text)
            end_of_epoch = report.step % (report.steps // report.epochs) == 0
            if end_of_epoch and not console.is_terminal:
                console.print(f"{text}, {report.seconds:.0f} s")

        yield show


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


def _stderr() -> Console:
    return Console(stderr=True, markup=False, emoji=False)


def _line(content: object) -> str:
    """Return a text in one line, with its control characters escaped."""
    return printable(" ".join(str(content).split()))


def _print(console: Console, content: str) -> None:
    console.print(Text(_line(content)), soft_wrap=True)
