"""One line of progress, fitted to a width: stage, bar, bracket, time, and more if there is room.

No text is markup: a model may be called "[/b]", and an error may hold any characters.
"""

from __future__ import annotations

import math

from rich.cells import cell_len
from rich.text import Text

from robustbench_dyn.errors import printable
from robustbench_dyn.progress.report import Progress
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.verdicts import Status

# Radii of the grid of a curve have as many digits as a float.
_DIGITS = 4
_SHORTEST_BAR, _LONGEST_BAR = 10, 20
# As long as the longest name of a stage that ships, bracket and time, so that nothing moves.
_STAGE, _BRACKET, _TIME = len("linear_relaxation"), len("[100.0, 100.0] %"), len("12:34 so far")
_COUNTED = (Status.CERTIFIED, Status.BROKEN, Status.UNDECIDED, Status.MISCLASSIFIED, Status.ERROR)


def one_line(content: object) -> str:
    """Return a text in one line, with its control characters escaped."""
    return printable(" ".join(str(content).split()))


def eps_of(report: Progress) -> str:
    """Return "eps 8/255", with its place where there are several, or what a curve looks for."""
    if report.sought == "distances":
        return report.sought
    text = f"{report.sought or 'eps'} {format_eps(report.eps, digits=_DIGITS)}"
    return f"{text} ({report.place} of {report.n_eps})" if report.n_eps > 1 else text


def bracket_of(report: Progress) -> str:
    """Return the bracket of the robust accuracy so far in percent, or nothing before there is one.

    Of the examples with a verdict: an undecided one, final or not, may be robust.
    """
    total = sum(report.counts.values())
    if not total:
        return ""
    certified = report.counts[Status.CERTIFIED]
    robust = certified + report.counts[Status.UNDECIDED]
    return f"[{100 * certified / total:.1f}, {100 * robust / total:.1f}] %"


def counts_of(report: Progress) -> str:
    """Return "certified 3, broken 1, undecided 2", without what there is none of."""
    counts = [(status, report.counts.get(status, 0)) for status in _COUNTED]
    return ", ".join(f"{status} {n}" for status, n in counts if n)


def clock(seconds: float) -> str:
    """Return seconds as 0:07 or 1:02:03."""
    minutes, rest = divmod(max(0, math.ceil(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_of(report: Progress) -> str:
    """Return the time left, or the time so far where none can be promised."""
    left = report.work.seconds_left
    return (
        f"{clock(left)} left"
        if math.isfinite(left)
        else f"{clock(int(report.work.seconds))} so far"
    )


def passes_of(report: Progress) -> str:
    """Return "12,345 of 40,000 passes", or nothing before the first."""
    work = report.work
    return f"{work.passes:,} of {work.expected_passes:,} passes" if work.expected_passes else ""


def bar_of(share: float, width: int, *, ascii_only: bool = False) -> Text:
    """Return a bar of so many columns, filled up to a share of it."""
    full = min(width, max(0, round(share * width)))
    done, rest = ("#", ".") if ascii_only else ("━", "─")
    return Text.assemble((done * full, "green"), (rest * (width - full), "dim"))


def progress_line(
    report: Progress, width: int, *, share: float | None = None, ascii_only: bool = False
) -> Text:
    """Return the state of a run in one line of at most `width` columns.

    Stage, bar, bracket and time always; then, as far as there is room, eps, the share, how many
    examples are decided, the passes and the model. What is shown keeps its place while the numbers
    change. share: that the bar shows, by default the report's.
    """
    share = report.work.share if share is None else share
    stage, time = one_line(report.stage), time_of(report)
    front = [stage.ljust(_STAGE)]
    back = [bracket_of(report).ljust(_BRACKET), time.rjust(_TIME)]
    bar = _SHORTEST_BAR
    if not _fits([*front, *back], bar, width):
        # So narrow that the bar makes way, and then the stage.
        front, back, bar = [stage], [time], 0
        front = front if _fits([*front, *back], bar, width) else []
    elif _fits([eps_of(report), *front, *back], bar, width):
        front = [eps_of(report), *front]
    if bar and _fits([*front, f"{share:4.0%}", *back], bar, width):
        back = [f"{share:4.0%}", *back]
    if bar:
        bar = min(_LONGEST_BAR, width - _length([*front, *back]) - 1)
    decided = f"{report.done}/{report.total} decided"
    model = " ".join(part for part in (one_line(report.model), one_line(report.norm)) if part)
    for more in (decided, passes_of(report), model):
        if bar and more and _fits([*front, *back, more], bar, width):
            back = [*back, more]
    parts = [*map(Text, front), *map(Text, back)]
    if bar:
        parts.insert(len(front), bar_of(share, bar, ascii_only=ascii_only))
    line = Text(" ").join(parts)
    line.truncate(width)
    line.no_wrap = True
    return line


def _length(parts: list[str]) -> int:
    return sum(cell_len(part) + 1 for part in parts) - 1


def _fits(parts: list[str], bar: int, width: int) -> bool:
    return _length(parts) + (bar + 1 if bar else 0) <= width
