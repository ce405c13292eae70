"""Tables as LaTeX: balanced, with the columns that they declare, and without commands of others."""

import re
import shutil
import subprocess

import pytest
from oracles.entries import ENTRIES, entry, letters

from robustbench_dyn.reporting.latex import to_latex
from robustbench_dyn.reporting.ranking import ranked
from robustbench_dyn.results.cells import to_latex_text

HOSTILE = r"\input{/etc/passwd} 100% a_b ~^ #1 $x$ {[ <>|\" ☃ – \\ " + "\n\\end{table}"
ALL = ranked(
    [
        *ENTRIES,
        entry("a", letters(100)),
        entry("under_score~0.25", letters(50), certifiers=(HOSTILE, "[optional]")),
        entry("h", letters(20), columns={"open_flags": HOSTILE}),
    ]
)


def fault(text):
    """Return what is wrong with LaTeX of tables; empty where nothing is."""
    text = re.sub(r"(?<!\\)%.*", "", text)
    # In text, these need a backslash.
    bare = re.findall(r"(?<!\\)[#^_$]", text)
    return f"bare {bare}" if bare else fault_of_groups(text) or fault_of_rows(text)


def fault_of_groups(text):
    """Return which environment or brace has no partner."""
    pattern = r"\\(begin|end)\{(\w+)\}|(?<!\\)([{}])"
    open_groups = []
    for command, name, brace in re.findall(pattern, re.sub(r"\\\\", "", text)):
        if command == "begin" or brace == "{":
            open_groups.append(name or "{")
        elif not open_groups or open_groups.pop() != (name or "{"):
            return f"{name or brace} ends where it was not begun"
    return f"{open_groups} without an end" if open_groups else ""


def fault_of_rows(text):
    """Return the first row of a tabular without its end or its columns."""
    tables = re.findall(
        r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}\n(.*?)\\end\{tabular\}", text, re.DOTALL
    )
    for alignment, body in tables:
        for row in re.sub(r"\\(toprule|midrule|bottomrule|addlinespace)\n", "", body).splitlines():
            span = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
            n_columns = len(re.findall(r"(?<!\\)&", row)) + 1 + span
            if not row.endswith(r" \\") or n_columns != len(alignment):
                return f"{row} has not {len(alignment)} columns"
    return ""


def test_tables_are_balanced_and_have_their_columns():
    text = to_latex(ALL)
    assert fault(text) == ""
    assert text.count(r"\begin{table}") == 2
    assert text.isascii()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"\end{tabular}", ""),
        (" & ", " "),
        (" & ", " & & "),
        (r"\emph{", r"\emph"),
        (r"under\_score", "under_score"),
        (r" \\", ""),
        (r"\end{table}", r"\end{tabular}"),
    ],
)
def test_a_broken_table_is_found(old, new):
    text = to_latex(ALL)
    assert old in text
    assert fault(text.replace(old, new, 1))


@pytest.mark.parametrize("text", [HOSTILE, "[x]", "*", "\\", "a&b", "%", "\x00\x1b[31m", "\ud800"])
def test_text_stays_text(text):
    cell = to_latex_text(text)
    assert cell.isascii()
    assert cell.isprintable()
    assert not cell.startswith(("[", "*"))
    commands = set(re.findall(r"\\([A-Za-z]+|.)", cell))
    known = {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater"}
    assert commands <= {*known, "textbar", *"{}$&#_%"}


def test_models_stand_in_their_groups():
    text = to_latex(ENTRIES)
    ranked_part = ["1= & a &", "1= & b &", "3 & c (2 seeds) &"]
    parts = [*ranked_part, r"\emph{On other images}", "few &", r"\emph{Not ranked}", "masked &"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "eps 8/255" in text
    assert "Clopper-Pearson" in text
    assert "m1: attacked with standard, certified by lipschitz." in text
    assert "Suite standard: pgd." in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_compiles_the_tables(tmp_path):
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "x.tex").write_text(f"{document}\n{to_latex(ALL)}\n\\end{{document}}\n")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "x.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:]
