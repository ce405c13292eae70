"""Texts of others in tables, progress and messages: no markup, no control characters."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.errors import MarkupError

from robustbench_dyn.cli import consoles, output, terminal
from robustbench_dyn.plugins.contract import Finding as Rule
from robustbench_dyn.progress.display import progress_display, sweep_display
from robustbench_dyn.progress.report import Progress
from robustbench_dyn.properties import Finding
from robustbench_dyn.results.attempts import Attempt
from robustbench_dyn.results.verdicts import Outcome, Status
from robustbench_dyn.sweeps.engines import Event
from robustbench_dyn.sweeps.shards import Shard

TEXTS = [
    "[/b]",
    "[/red] [bold]x[/bold]",
    "[link=file:///etc/passwd]click[/link]",
    ":smile:",
    "\x1b[2J\x1b[31mred",
    "\x1b]8;;http://x\x07here\x1b]8;;\x07",
    "one\rtwo\x08\x07",
    "\u202eright to left",
    "\x9b31m",
    "a\nb\tc",
    "\udcff",
    "\\[x]",
]
COUNTS = dict.fromkeys(Status, 1)
ROW = {
    "dataset": "digits", "norm": "L2", "eps": 0.5, "seed": 0, "n_examples": 1, "seconds": 1.0,
    "clean_accuracy": 1.0, "certified_accuracy": None, "empirical_accuracy": 1.0, "gap": 0.0,
    "ci_low": 0.0, "ci_high": 1.0, "forward_passes": 1, "backward_passes": 1,
}  # fmt: off


def shard(text):
    return Shard(model=text, dataset=text, norm="L2", eps=(0.5,), seed=0, start=0, stop=1)


def run_progress(text):
    with progress_display(enabled=True) as show:
        show(Progress(eps=0.5, stage=text, done=0, total=1, counts=COUNTS))


def sweep_progress(text):
    report = Progress(eps=0.5, stage=text, done=0, total=1, counts=COUNTS)
    with sweep_display(enabled=True) as show:
        show(Event(shard(text), "started"), 2)
        show(Event(shard(text), "at work", progress=report), 2)
        show(Event(shard(text), "failed", f"ValueError: {text}"), 2)


def sweep_at_work(text):
    report = Progress(eps=0.5, stage=text, done=0, total=1, counts=COUNTS)
    with sweep_display(enabled=True) as show:
        show(Event(shard(text), "started"), 2)
        # The bars are drawn at the end, with what they showed last.
        show(Event(shard(text), "at work", progress=report), 2)


def sweep_rows(text):
    terminal.sweep_table([ROW | {"model": text}])


def bracket(text):
    step = SimpleNamespace(stage=text, message=text, outcome=Outcome.FAILED)
    summary = ROW | {"model": text, "attacks": text, "certifiers": text, "flags": text}
    verdict = SimpleNamespace(status=Status.UNDECIDED, trail=(step,), attack=text)
    evaluation = SimpleNamespace(
        summary=summary,
        verdicts=[verdict],
        attempts=[
            Attempt(certifier=text, eps=0.5, not_applicable=text),
            Attempt(certifier=text, eps=0.5, tried=1, unproved={text: 1}),
        ],
    )
    terminal.bracket_table([evaluation])


def costs(text):
    cost = SimpleNamespace(
        eps=0.5, stage=text, examples=1, decided=1, forward_passes=1, backward_passes=1, seconds=1.0
    )
    terminal.cost_table([SimpleNamespace(costs=[cost])], 1.0)


def contract(text):
    with terminal.contract_display(text) as show:
        show(text, Rule(text, False, text, (text,)))


def claims(text):
    with terminal.findings_display() as show:
        show(Finding(claim=text, part=text, points=text, defect=1.0, tolerance=0.0, note=text))


def table(text):
    consoles.table((text, consoles.Column(text, wraps=True)), [(text, text)], title=text)
    consoles.note(text)


def error(text):
    output.print_error(text)


def result(text):
    output.print_result(text)


DISPLAYS = [
    run_progress, sweep_progress, sweep_at_work, sweep_rows, bracket, costs, contract, claims,
    table, error, result,
]  # fmt: off


@pytest.mark.parametrize("terminal_like", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("display", DISPLAYS, ids=lambda display: display.__name__)
def test_texts_of_others_are_shown_as_they_are(display, terminal_like, monkeypatch, capsys):
    if terminal_like:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "300")
    for text in TEXTS:
        display(text)
        printed = "".join(capsys.readouterr())
        assert text.isprintable() == (text in printed) or terminal_like or "\n" in text
        for control in (
            "\x1b[2J",
            "\x1b]",
            "\x1b[31mred",
            "\x07",
            "\x08",
            "\u202e",
            "\x9b",
            "two\r",
        ):
            assert control not in printed


def test_a_console_with_markup_fails_on_the_same_texts():
    with pytest.raises(MarkupError):
        Console(file=io.StringIO()).print("a [/b]")
    plain = Console(file=io.StringIO(), markup=False)
    plain.print("\x1b[2J")
    assert "\x1b[2J" in plain.file.getvalue()


def test_printable_text_is_left_alone():
    text = "–é≥ 8/255 [x]\nnext line"
    assert output.printable(text) == text


def test_json_has_null_for_what_json_lacks(capsys):
    nan, inf = float("nan"), float("inf")
    output.print_json({"a": nan, "b": [inf, -inf, (1.5, nan)], "c": {"d": "\x1b"}, "e": True})
    out = capsys.readouterr().out
    expected = {"a": None, "b": [None, None, [1.5, None]], "c": {"d": "\x1b"}, "e": True}
    assert json.loads(out) == expected
    assert "\x1b" not in out
