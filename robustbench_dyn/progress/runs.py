"""The displays of one run: a line that is drawn again and again, or one line a stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.text import Text

from robustbench_dyn.progress.lines import (
    bracket_of,
    clock,
    counts_of,
    eps_of,
    one_line,
    progress_line,
)
from robustbench_dyn.progress.report import Progress, Watch

# The bar goes back only where the share that was shown was off by more than this.
_SLACK = 0.15


class LiveRun:
    """What a terminal shows of a run: drawn from the state of the moment, not from reports alone.

    A call with a report is what evaluate makes after each batch; `watch` gets the function that
    returns the state in between.
    """

    def __init__(self) -> None:
        self._latest: Progress | None = None
        self._now: Watch | None = None
        self._share, self._started = 0.0, time.monotonic()

    def __call__(self, report: Progress) -> None:
        """Take a report."""
        self._latest = report

    def watch(self, now: Watch) -> None:
        """Take the function that returns the state at any moment."""
        self._now = now

    def render(self, width: int) -> Sequence[Text]:
        """Return the line to be shown, at most `width` columns long."""
        report = (self._now() if self._now is not None else None) or self._latest
        if report is None:
            waited = clock(int(time.monotonic() - self._started))
            text = Text(f"preparing the model and the certifiers, {waited}", no_wrap=True)
            text.truncate(width)
            return [text]
        share = report.work.share
        self._share = share if share < self._share - _SLACK else max(share, self._share)
        return [progress_line(report, width, share=self._share)]


class RunInLines:
    """What a pipe shows of a run: one line when a stage ends, with what it decided, and its time.

    write: prints one line. clock: seconds from any start.
    """

    def __init__(
        self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        # The last report of the stage at work, how many were decided before it, and its start.
        self._last: Progress | None = None
        self._before, self._started = 0, clock()

    def __call__(self, report: Progress) -> None:
        """Take a report; print the line of the stage that ended with it."""
        last = self._last
        if last is not None and (last.stage, last.eps) != (report.stage, report.eps):
            self._end(last)
        if report.stage == "done":
            self._write(f"{eps_of(report)}: {counts_of(report)}: {_robust(report)}")
            self._last, self._before, self._started = None, 0, self._clock()
            return
        self._last = report

    def _end(self, last: Progress) -> None:
        decided = _decided(last)
        now = self._clock()
        self._write(
            f"{eps_of(last)}: {one_line(last.stage)} decided {decided - self._before}, "
            f"{last.total - decided} left, {now - self._started:.1f} s"
        )
        self._before, self._started = decided, now


def _decided(report: Progress) -> int:
    """Return how many examples are certified, broken, misclassified or in error."""
    return sum(n for status, n in report.counts.items() if status != "undecided")


def _robust(report: Progress) -> str:
    return f"robust accuracy in {bracket_of(report)}" if bracket_of(report) else "no examples"
