"""Displays of runs, sweeps and trainings on stderr: bars in a terminal, lines in a pipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.text import Text

from robustbench_dyn.progress import loading
from robustbench_dyn.progress.lines import bar_of, clock, one_line, progress_line
from robustbench_dyn.progress.notebook import NotebookScreen, in_notebook
from robustbench_dyn.progress.report import Progress
from robustbench_dyn.progress.runs import LiveRun, RunInLines
from robustbench_dyn.progress.screen import Screen

# What users give as `progress`: a function that gets reports; True for a display, False for none;
# None for a display where stderr is a terminal or this is a notebook.
Reporter = Callable[[Progress], None] | bool | None


class ShardEvent(Protocol):
    """A change in the state of a shard, as sweeps.engines.Event."""

    @property
    def shard(self) -> object: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def message(self) -> str: ...  # noqa: D102
    @property
    def progress(self) -> Progress | None: ...  # noqa: D102


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
def progress_display(*, enabled: bool) -> Iterator[Reporter]:
    """Show the stage, the share done, the bracket so far and the time left of a run.

    Yields what to give as `progress`. In a pipe, a line is printed at the end of each stage.
    """
    loading.clear()
    if not enabled:
        yield False
        return
    console, run = stderr(), LiveRun()
    if in_notebook():
        with NotebookScreen(run.render):
            yield run
    elif console.is_terminal:
        with Screen(console, run.render):
            yield run
    else:
        yield RunInLines(lambda text: print_line(console, text))


@contextmanager
def reporting(progress: Reporter) -> Iterator[Callable[[Progress], None] | None]:
    """Yield the function that gets the reports of a run, or None; see Reporter."""
    if callable(progress):
        yield progress
        return
    if progress is None:
        progress = in_notebook() or stderr().is_terminal
    with progress_display(enabled=progress) as display:
        yield display if callable(display) else None


@contextmanager
def sweep_display(*, enabled: bool) -> Iterator[Callable[[ShardEvent, int], None] | None]:
    """Show how many shards are finished, and the state of those that run."""
    loading.clear()
    if not enabled:
        yield None
        return
    console = stderr()
    running: dict[object, Progress | None] = {}
    finished, total = 0, 0

    def render(width: int) -> list[Text]:
        bar = bar_of(finished / total if total else 0.0, min(20, max(1, width - 30)))
        overall = Text(" ").join((Text(f"{finished} of {total or '?'} shards"), bar))
        lines = [overall]
        for shard, report in list(running.items()):
            # A name is folded where it is longer than the terminal is wide.
            lines.append(Text(one_line(shard), overflow="fold"))
            if report is not None:
                lines.append(Text("  ") + progress_line(report, width - 2))
        return lines

    def show(event: ShardEvent, n_shards: int) -> None:
        nonlocal finished, total
        total = n_shards
        name = one_line(event.shard)
        if event.state == "at work":
            running[event.shard] = event.progress
            return
        if event.state == "started":
            running[event.shard] = None
        else:
            running.pop(event.shard, None)
        finished += event.state in ("done", "failed", "unsound")
        if event.state not in ("started", "done"):
            print_line(console, f"{name} {event.state}: {event.message}")
        elif not console.is_terminal:
            print_line(console, f"{name} {event.state}")

    if not console.is_terminal:
        yield show
        return
    with Screen(console, render):
        yield show


@contextmanager
def training_display(*, enabled: bool = True) -> Iterator[Callable[[Epoch], None]]:
    """Show the epoch, the loss and the time left; in a pipe, a line at the end of each epoch."""
    loading.clear()
    console = stderr()
    latest: Epoch | None = None
    first: Epoch | None = None

    def render(width: int) -> list[Text]:
        if latest is None or first is None:
            return [Text("preparing")]
        text = f"epoch {latest.epoch + 1}/{latest.epochs}, loss {latest.loss:.4f}"
        share, since = latest.step / latest.steps, first.step / latest.steps
        took = latest.seconds - first.seconds
        left = took * (1 - share) / (share - since) if share > since else math.nan
        time = f"{clock(left)} left" if math.isfinite(left) else ""
        bar = bar_of(share, min(20, max(1, width - len(text) - len(time) - 2)))
        return [Text(" ").join((Text(text), bar, Text(time)))]

    def show(report: Epoch) -> None:
        nonlocal latest, first
        latest, first = report, first or report
        end_of_epoch = report.step % (report.steps // report.epochs) == 0
        if end_of_epoch and enabled and not console.is_terminal:
            text = f"epoch {report.epoch + 1}/{report.epochs}, loss {report.loss:.4f}"
            print_line(console, f"{text}, {report.seconds:.0f} s")

    if not (enabled and console.is_terminal):
        yield show
        return
    with Screen(console, render):
        yield show


def stderr() -> Console:
    """Return a console that prints progress."""
    return Console(stderr=True, markup=False, emoji=False)


def print_line(console: Console, content: str) -> None:
    """Print a text in one line, however long, with its control characters escaped."""
    console.print(Text(one_line(content)), soft_wrap=True)
