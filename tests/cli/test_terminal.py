"""Tables in the terminal: the headings and the eps that people read."""

import re

import pytest
from oracles.evidence import evidence

from robustbench_dyn.cli.terminal import sweep_table
from robustbench_dyn.results.headings import heading


@pytest.mark.parametrize(("eps", "text"), [(8 / 255, "8/255"), (0.5, "0.5"), (1.0, "1")])
def test_a_sweep_is_printed_in_the_words_of_all_tables(eps, text, capsys):
    sweep_table([evidence("lipflow", "ccub", eps=eps).row()])
    out, _ = capsys.readouterr()
    headings, row = (re.split(r" {2,}", line.strip()) for line in out.splitlines())
    cells = dict(zip(headings, row, strict=True))
    assert cells["eps"] == text
    assert cells[heading("certified_accuracy")] == cells["certified %"] == "50.0"
    assert cells["data set"] == "digits"
