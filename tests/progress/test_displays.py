"""Displays in a terminal, in a pipe and in a notebook; what is loaded; and what silence means."""

import contextlib
import io
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from robustbench_dyn.progress import display, loading, notebook
from robustbench_dyn.progress.display import progress_display, reporting, sweep_display
from robustbench_dyn.progress.report import Progress, Work
from robustbench_dyn.progress.runs import LiveRun, RunInLines
from robustbench_dyn.progress.screen import Screen
from robustbench_dyn.results.verdicts import Status

NONE = dict.fromkeys(Status, 0)


def report(stage, *, certified=0, undecided=10, share=0.5, **other):
    counts = NONE | {Status.CERTIFIED: certified, Status.UNDECIDED: undecided}
    work = Work(share=share, seconds=5.0, seconds_left=5.0)
    return Progress(
        eps=0.5, stage=stage, done=certified, total=10, counts=counts, work=work, **other
    )


def terminal(width, height=24):
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None,
        legacy_windows=False,
    )  # fmt: off


def printed(console):
    """Return what a terminal was sent, without its control codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


@pytest.fixture
def console(monkeypatch, request):
    """Make the displays print to a console of the width that the test asks for."""
    made = terminal(getattr(request, "param", 80))
    monkeypatch.setattr(display, "stderr", lambda: made)
    return made


@pytest.mark.parametrize("console", [60, 80, 120], indirect=True)
def test_a_terminal_shows_one_line_that_never_wraps(console):
    with progress_display(enabled=True) as show:
        for k in range(5):
            show(report("linear_relaxation", certified=k, undecided=10 - k, n_eps=3))
            time.sleep(0.15)
    sent = console.file.getvalue()
    lines = [line for line in re.split(r"[\r\n]", printed(console)) if line]
    assert len(lines) > 3
    assert all(len(line) < console.width for line in lines), lines
    # One line: no redraw goes up, and the end takes it away and shows the cursor.
    assert "\x1b[2A" not in sent
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l")
    assert sent.endswith("\x1b[2K")


def test_the_state_between_reports_is_drawn():
    run, now = LiveRun(), report("apgd-ce", share=0.1)
    run(report("certify", share=0.0))
    run.watch(lambda: now)
    assert "apgd-ce" in run.render(80)[0].plain
    run.watch(lambda: None)
    assert "certify" in run.render(80)[0].plain


def test_a_bar_goes_back_only_where_it_was_far_off():
    run = LiveRun()

    def full(share):
        run.watch(lambda: report("apgd-ce", share=share))
        return run.render(80)[0].plain.count("━")

    forty = full(0.4)
    assert full(0.35) == forty
    assert full(0.1) < forty


def test_before_the_first_report_preparation_is_shown():
    assert LiveRun().render(60)[0].plain.startswith("preparing the model")
    assert len(LiveRun().render(10)[0].plain) <= 10


def test_a_pipe_gets_one_line_when_a_stage_ends():
    lines, times = [], iter([0.0, 2.0, 2.0, 5.0, 5.0, 6.0, 7.0])
    run = RunInLines(lines.append, clock=lambda: next(times))
    run(report("certify", certified=3, undecided=7))
    for _ in range(100):
        run(report("apgd-ce", certified=3, undecided=7))
    assert lines == ["eps 0.5: certify decided 3, 7 left, 2.0 s"]
    run(report("done", certified=3, undecided=7))
    assert len(lines) == 3
    assert lines[1].startswith("eps 0.5: apgd-ce decided 0, 7 left")
    assert "robust accuracy in [30.0, 100.0] %" in lines[2]


def test_a_pipe_gets_no_control_codes(capsys):
    with progress_display(enabled=True) as show:
        show(report("certify"))
        show(report("done"))
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    assert "\x1b" not in err and "\r" not in err


def test_a_disabled_display_silences_evaluate(capsys):
    with progress_display(enabled=False) as progress:
        assert progress is False
    with sweep_display(enabled=False) as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("progress", "at_terminal", "shown"),
    [
        (None, True, True),
        (None, False, False),
        (True, False, True),
        (True, True, True),
        (False, True, False),
    ],
)
def test_the_default_shows_progress_in_a_terminal_alone(progress, at_terminal, shown, monkeypatch):
    made = terminal(80) if at_terminal else Console(file=io.StringIO())
    monkeypatch.setattr(display, "stderr", lambda: made)
    with reporting(progress) as show:
        assert (show is not None) == shown
        if show is not None:
            show(report("certify"))
            show(report("done"))
    assert bool(made.file.getvalue()) == shown


def test_a_function_gets_the_reports_itself():
    reports = []
    with reporting(reports.append) as show:
        show(report("certify"))
    assert [one.stage for one in reports] == ["certify"]


@pytest.mark.parametrize("console", [40, 60, 120], indirect=True)
def test_a_sweep_fits_the_terminal(console):
    shard = "feedforward/l2-0.25 fashion_mnist L2 seed 0 examples 0-499"

    def event(state, progress=None):
        return SimpleNamespace(shard=shard, state=state, message="", progress=progress)

    with sweep_display(enabled=True) as show:
        show(event("started"), 3)
        show(event("at work", report("apgd-ce", certified=3, undecided=7)), 3)
        time.sleep(0.3)
        show(event("done"), 3)
        time.sleep(0.2)
    text = printed(console)
    assert "1 of 3 shards" in text and "0 of 3 shards" in text
    assert "None" not in text
    assert all(len(line) <= console.width for line in re.split(r"[\r\n]+", text))
    if console.width > 60:
        assert shard in text


def test_messages_above_a_display_stand_whole():
    console = terminal(60)
    with Screen(console, lambda width: [report_line(width)]):
        display.print_line(console, "a shard failed: " + "x" * 100)
    assert "x" * 100 in printed(console).replace("\n", "")


def report_line(width):
    from robustbench_dyn.progress.lines import progress_line  # noqa: PLC0415

    return progress_line(report("certify"), width)


def test_an_error_leaves_no_line_behind(console):
    with contextlib.suppress(RuntimeError), progress_display(enabled=True) as show:
        show(report("certify"))
        raise RuntimeError
    assert console.file.getvalue().rstrip().endswith("\x1b[2K")


# Notebooks


def test_a_notebook_rewrites_one_output(monkeypatch):
    shown = []

    class Handle:
        def update(self, content, *, raw):
            assert raw
            shown.append(content["text/plain"])

    def show(content, *, raw, display_id):
        assert raw and display_id
        shown.append(content["text/plain"])
        return Handle()

    shell = type("ZMQInteractiveShell", (), {})()
    ipython = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=show))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    assert notebook.in_notebook()
    with reporting(None) as run:
        run(report("apgd-ce"))
    assert "preparing" in shown[0]
    assert "apgd-ce" in shown[-1]


@pytest.mark.parametrize("shell", [None, "TerminalInteractiveShell"])
def test_other_shells_are_no_notebooks(shell, monkeypatch):
    made = type(shell, (), {})() if shell else None
    ipython = SimpleNamespace(get_ipython=lambda: made)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert not notebook.in_notebook()


# What is loaded


def test_what_is_loaded_is_said_before_torch_is_imported():
    script = (
        "import sys; from robustbench_dyn.progress.loading import loading\n"
        "with loading('loading torch'): sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_loading_is_shown_in_a_terminal_and_taken_away(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with loading.loading("loading torch"):
        loading.say("reading \x1b[2J digits")
        time.sleep(0.2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading \\x1b[2J digits" in err
    assert err.rstrip().endswith("\x1b[2K")


@pytest.mark.parametrize("enabled", [False, True])
def test_loading_says_nothing_in_a_pipe(enabled, capsys):
    with loading.loading("loading torch", enabled=enabled):
        pass
    assert capsys.readouterr() == ("", "")
