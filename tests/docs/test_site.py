"""The site of the documentation: its generated pages, and the check of its links."""

import re
import subprocess
import sys

import pytest

# The packages of the site are apart, for they want newer ones than torchattacks.
pytest.importorskip("docutils", reason="pip install -r docs/requirements.txt")

import build_site
import check_links
import typer
from generators import api, benchmarks, commands, links, maths, notebooks, notes, zoo
from generators.markdown import block, escaped, inline, literal
from oracles.command import dynbench_here
from oracles.pages import DOCS, ROOT

import robustbench_dyn
from robustbench_dyn.cli import app

COMMANDS = dict(commands.leaves(typer.main.get_command(app)))


@pytest.fixture
def site(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">A</h1><a href="sub/b.html#here">b</a><a href="sub">folder</a>'
        '<a href="https://example.org/x?y=1#z">c</a><img src="data:image/png;base64,AA==">'
    )
    (tmp_path / "sub" / "b.html").write_text('<p id="here"><a href="../index.html?q=1#top">a</a>')
    (tmp_path / "sub" / "index.html").write_text("")
    return tmp_path


def test_a_site_whose_links_all_lead_somewhere_passes(site):
    assert list(check_links.broken(site)) == []
    assert check_links.main(site) == 0


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("none.html", "no such file"),
        ("sub/b.html#there", "no such anchor"),
        ("#bottom", "no such anchor"),
        ("../outside.html", "leads out"),
        ("htp://example.org", "no address"),
        ("https:///x", "no address"),
        ("https://example.org/a b", "no address"),
    ],
)
def test_a_broken_link_of_the_site_is_found(site, link, reason):
    (site / "new.html").write_text(f'<a href="{link}">x</a>')
    (line,) = check_links.broken(site)
    assert line.startswith(f"new.html: {link}: ")
    assert reason in line


# An option at the begin of a line of the help, in a box or not, after its short name or not.
OPTION = re.compile(r"^[│ *]*(?:-\w, )?(--[a-z][a-z0-9-]*)(?:/(--[a-z][a-z0-9-]*))?", re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_a_command_has_the_options_of_its_help(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    text = dynbench_here([*name.split(), "--help"], tmp_path, monkeypatch, capsys).stdout
    in_help = {option for found in OPTION.findall(text) for option in found if option}
    page = commands.pages(DOCS)[f"reference/cli/{commands.place(name)}.md"]
    on_page = set(re.findall(r"`(--[a-z][a-z0-9-]*)(?: [^`]*)?`", page))
    assert "--help" in in_help
    assert on_page - {"--help"} == in_help - {"--help"}


@pytest.mark.parametrize("name", [n for n in robustbench_dyn.__all__ if n != "__version__"])
def test_each_public_name_is_in_the_reference_once(name):
    pages = api.pages(DOCS).values()
    assert sum(page.count(f":: robustbench_dyn.{name}\n") for page in pages) == 1


def test_the_zoo_repeats_the_published_tables():
    readme = (ROOT / "leaderboards" / "README.md").read_text(encoding="utf-8")
    cell = r" ([^|]+) \|"
    found = re.findall(rf"^\| [^|]* \|{cell}{cell}{cell}{cell}", readme, re.MULTILINE)
    pages = zoo.pages(DOCS)
    known = [row for row in found if f"zoo/{zoo.base(row[0])}.md" in pages]
    assert len(known) > 100
    for model, *numbers in known:
        row = f"| `{model}` | " + " | ".join(numbers)
        assert row in pages[f"zoo/{zoo.base(model)}.md"], row


def test_the_page_of_a_model_has_its_card():
    page = zoo.pages(DOCS)["zoo/lipflow.md"]
    for part in ("x ↦ x − 2 W relu", "`nonexpansive`", "flow-lipflow.png", "`lipflow/eps-1.0`"):
        assert part in page
    assert "https://arxiv.org/abs/2210.02373" in page


def test_each_benchmark_that_can_be_run_has_a_section():
    page = benchmarks.pages(DOCS)["results/benchmarks.md"]
    assert "python benchmarks/soundness.py" in page
    assert "(../../benchmarks/results/soundness.csv)" in page
    assert "## measuring" not in page  # a module that others import


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[a](../plugins/lipflow)", "[a](zoo/lipflow.md)"),
        ("[a](../plugins/lipflow/__init__.py)", "[a](code/plugins/lipflow/__init__.md)"),
        ("[a](../robustbench_dyn/errors.py)", "[a](code/robustbench_dyn/errors.md)"),
        ("[a](../robustbench_dyn/flows)", "[a](code/robustbench_dyn/flows.md)"),
        ("[a](../CONTRIBUTING.md)", "[a](project/contributing.md)"),
        ("[a](../benchmarks/results/page.csv)", "[a](../benchmarks/results/page.csv)"),
        ("[a](cli.md#data-sets)", "[a](cli.md#data-sets)"),
        ("[a](https://example.org)", "[a](https://example.org)"),
        ("```\n[a](../plugins/lipflow)\n```", "```\n[a](../plugins/lipflow)\n```"),
    ],
)
def test_links_to_the_repository_lead_to_pages_of_the_site(written, read):
    assert links.rewritten(written, DOCS / "page.md") == read


def test_a_page_shown_elsewhere_keeps_its_links():
    text = "[a](docs/flags.md) [b](LICENSE) [c](https://example.org)"
    moved = links.moved(text, ROOT, DOCS / "project" / "x.md")
    assert moved == "[a](../flags.md) [b](../../LICENSE) [c](https://example.org)"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("x: (batch, *shape), `x_adv` too.", r"x: (batch, \*shape), ``x_adv`` too."),
        ("the |logits| of x_ and x_y", r"the \|logits\| of x\_ and x_y"),
    ],
)
def test_a_docstring_is_shown_as_it_reads(line, shown):
    assert notes.as_rst([line]) == [shown]


def test_an_indented_block_of_a_docstring_is_code():
    assert notes.as_rst(["Text.", "", "    a *= 2", "", "More."]) == [
        *("Text.", "", "::", "", "    a *= 2", "", "More.")
    ]


def test_texts_of_elsewhere_cannot_make_markup():
    assert escaped("*a* <b> |") == r"\*a\* \<b\> \|"
    assert inline("writes `a*b`, *all*") == r"writes `a*b`, \*all\*"
    assert literal("a|b") == r"`a\|b`"
    assert block("```\nx\n```").startswith("````text\n")


def test_a_formula_becomes_mathml():
    shown = maths.mathml(r"\lVert \delta \rVert_2")
    assert shown.startswith("<math")
    assert "δ" in shown
    assert shown.count('stretchy="false"') == 2


def test_a_notebook_becomes_a_page(tmp_path):
    cells = """{"cells": [
      {"cell_type": "markdown", "source": ["# Title\\n", "Text."]},
      {"cell_type": "code", "source": ["1 + 1"], "outputs": [{"data": {"text/plain": ["2"]}}]}
    ]}"""
    (tmp_path / "a.ipynb").write_text(cells)
    pages = notebooks.pages(tmp_path)
    page = pages["results/a.md"]
    assert "\na\n" in pages["results/notebooks.md"]
    assert page.startswith("# Title\n\nThe notebook itself: [a.ipynb](../a.ipynb).\n\nText.")
    assert "```python\n1 + 1\n```" in page
    assert "```text\n2\n```" in page


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["", "[nowhere](none.md)\n"])
def test_the_build_ends_with_an_error_at_a_broken_link(broken, tmp_path):
    """One page, built with the options of the whole site."""
    pytest.importorskip("myst_parser", reason="the packages of docs/requirements.txt are missing")
    (tmp_path / "index.md").write_text(f"# Title\n\nText.\n{broken}")
    options = [*build_site.OPTIONS, "-C", "-D", "extensions=myst_parser"]
    ended = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(tmp_path), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == (1 if broken else 0), ended.stderr
    assert ("none.md" in ended.stderr) == bool(broken)
