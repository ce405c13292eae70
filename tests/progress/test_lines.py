"""The line of a run fits any width, names stand whole, and times are promised as they are."""

import io
import math

import pytest
from rich.cells import cell_len
from rich.console import Console

from robustbench_dyn.progress.lines import bar_of, bracket_of, clock, progress_line
from robustbench_dyn.progress.report import Progress, Work
from robustbench_dyn.results.verdicts import Status

COUNTS = dict.fromkeys(Status, 0) | {
    Status.CERTIFIED: 3, Status.BROKEN: 2, Status.UNDECIDED: 4, Status.MISCLASSIFIED: 1,
}  # fmt: off
WORK = Work(passes=12_345, expected_passes=40_000, share=0.43, seconds=50, seconds_left=72.5)
REPORT = Progress(
    eps=8 / 255, stage="linear_relaxation", done=6, total=10, counts=COUNTS,
    model="feedforward/l2-0.25", norm="Linf", place=1, n_eps=3, work=WORK,
)  # fmt: off
LONG = REPORT._replace(
    stage="a-very-long-name-of-an-attack-by-a-plugin", model="m" * 90, eps=0.123456789
)
WIDE = REPORT._replace(stage="攻撃" * 5)


@pytest.mark.parametrize("report", [REPORT, LONG, WIDE], ids=["usual", "long", "wide letters"])
@pytest.mark.parametrize("width", [*range(1, 130, 7), 60, 80, 120, 200])
def test_a_line_is_never_longer_than_the_terminal(report, width):
    line = progress_line(report, width)
    assert cell_len(line.plain) <= width
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    console.print(line)
    assert console.file.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [
        (60, ("linear_relaxation", "━", "[30.0, 70.0] %", "1:13 left"), ("eps", "43%")),
        (80, ("linear_relaxation", "eps 8/255 (1 of 3)", "[30.0, 70.0] %"), ("passes",)),
        (120, ("eps 8/255 (1 of 3)", "43%", "6/10 decided", "1:13 left"), ("l2-0.25",)),
        (200, ("43%", "6/10", "12,345 of 40,000 passes", "feedforward/l2-0.25 Linf"), ()),
    ],
)
def test_wider_terminals_show_more(width, shown, left_out):
    line = progress_line(REPORT, width).plain
    assert all(text in line for text in shown), line
    assert not any(text in line for text in left_out), line


@pytest.mark.parametrize("width", range(1, 120, 3))
def test_names_stand_whole_or_not_at_all(width):
    line = progress_line(LONG, width).plain
    assert "…" not in line
    assert LONG.stage in line or "a-very" not in line
    assert LONG.model in line or "mm" not in line


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_moves_while_the_numbers_change(width):
    def places(**work):
        counts = COUNTS | {Status.CERTIFIED: 90, Status.UNDECIDED: work.pop("undecided", 0)}
        line = progress_line(REPORT._replace(counts=counts, work=WORK._replace(**work)), width)
        return line.plain.index("["), line.plain.index("left")

    first = places(share=0.0, seconds_left=599)
    assert places(share=0.999, seconds_left=60, undecided=10) == first
    assert places(share=0.5, seconds_left=3, undecided=900) == first


@pytest.mark.parametrize(
    ("sought", "text"),
    [("", "eps 8/255 (1 of 3)"), ("radius", "radius 8/255 (1 of 3)"), ("distances", "distances")],
)
def test_radii_of_a_curve_are_not_called_eps(sought, text):
    assert f"{text} linear" in progress_line(REPORT._replace(sought=sought), 200).plain


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (0.2, "0:01"), (59.5, "1:00"), (3723, "1:02:03")]
)
def test_times_are_rounded_up(seconds, text):
    assert clock(seconds) == text


def test_no_time_is_promised_before_anything_was_measured():
    line = progress_line(REPORT._replace(work=WORK._replace(seconds_left=math.nan)), 80).plain
    assert "0:50 so far" in line
    assert "left" not in line


@pytest.mark.parametrize(("share", "full"), [(0, 0), (0.5, 5), (1, 10), (7, 10), (-1, 0)])
def test_a_bar_is_filled_up_to_its_share(share, full):
    assert bar_of(share, 10).plain == "━" * full + "─" * (10 - full)
    assert bar_of(share, 10, ascii_only=True).plain == "#" * full + "." * (10 - full)


def test_there_is_no_bracket_before_the_first_verdict():
    assert bracket_of(REPORT._replace(counts=dict.fromkeys(Status, 0))) == ""
    assert bracket_of(REPORT) == "[30.0, 70.0] %"
