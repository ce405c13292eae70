"""Figures of papers: read strictly, shown apart from what was run."""

import pytest
from oracles.entries import entry

from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.markdown import to_markdown
from robustbench_dyn.reporting.page import write_page
from robustbench_dyn.reporting.properties import Findings
from robustbench_dyn.reporting.published import read_folder, tables_in
from robustbench_dyn.reporting.publishing import publish
from robustbench_dyn.reporting.reported import REPORTED, Reported, read_reported
from robustbench_dyn.resources import shipped

HEAD = ",".join(Reported._fields)
LINE = 'digits,L2,0.5,A net,0.9,0.5,0.7,1000,"Paper, Table 1",https://example.org/paper'


def write(folder, *lines):
    folder.mkdir(exist_ok=True)
    (folder / REPORTED).write_text("\n".join([HEAD, *lines]) + "\n")
    return folder


def test_a_line_is_read_as_it_stands(tmp_path):
    other = LINE.replace("A net,0.9,0.5,0.7", "Best,,0.6,")
    found = read_reported(write(tmp_path, LINE, other))
    about = (1000, "Paper, Table 1", "https://example.org/paper")
    assert found == [
        Reported("digits", "L2", 0.5, "Best", None, 0.6, None, *about),
        Reported("digits", "L2", 0.5, "A net", 0.9, 0.5, 0.7, *about),
    ]


def test_further_files_are_read_like_the_first_and_are_no_tables(tmp_path):
    write(tmp_path, LINE)
    more = "\n".join([HEAD, LINE.replace("digits", "moons")]) + "\n"
    (tmp_path / "reported-moons.csv").write_text(more)
    assert [one.dataset for one in read_reported(tmp_path)] == ["digits", "moons"]
    assert tables_in(tmp_path) == []
    (tmp_path / "reportedly.csv").write_text(more)
    assert len(read_reported(tmp_path)) == 2
    assert [path.name for path in tables_in(tmp_path)] == ["reportedly.csv"]
    (tmp_path / "reported-moons.csv").write_text("model\n")
    with pytest.raises(InputError, match=r"reported-moons\.csv must have the columns"):
        read_reported(tmp_path)


def test_without_a_file_nothing_is_reported(tmp_path):
    assert read_reported(tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("L2", "L3", "must be one of Linf, L2, L1"),
        (",0.5,0.7", ",0.8,0.7", "certified <= empirical <= clean"),
        ("0.9", "nan", "must lie in"),
        ("0.9", "90", "must lie in"),
        ("0.5,0.7", ",", "neither a certified nor an empirical accuracy"),
        ("L2,0.5", "L2,-1", "must be greater than 0"),
        ("L2,0.5", "L2,x", "are numbers"),
        ("1000", "0", "must be greater than 0"),
        ("1000", "1e3", "are numbers"),
        ("https", "javascript", "must be an https address"),
        ("A net", "", "model is empty"),
        ('"Paper, Table 1"', "", "source is empty"),
        ("A net", "A,net", "has 11 cells"),
    ],
)
def test_a_line_that_breaks_a_rule_is_named(old, new, rule, tmp_path):
    folder = write(tmp_path, LINE, LINE.replace(old, new, 1))
    with pytest.raises(InputError, match="line 3") as error:
        read_reported(folder)
    assert rule in str(error.value)


def test_other_columns_are_refused(tmp_path):
    (tmp_path / REPORTED).write_text("model,certified\n")
    with pytest.raises(InputError, match="must have the columns dataset, norm"):
        read_reported(tmp_path)


def test_figures_of_papers_stand_apart_and_stay(tmp_path):
    tables = tmp_path / "tables"
    row = entry("m", "CCUB").row
    of_table = LINE.replace("digits,L2,0.5", f"{row['dataset']},{row['norm']},{row['eps']:g}")
    elsewhere = LINE.replace("A net", "<b>Other</b>").replace("L2,0.5", "L2,3")
    publish([entry("m", "CCUB")], write(tables, of_table, elsewhere))
    assert [path.name for path in tables_in(tables)] != [REPORTED]
    assert [one.row["model"] for one in read_folder(tables)] == [row["model"]]
    assert len(read_reported(tables)) == 2
    text = (tables / "README.md").read_text()
    assert text.index("### Reported by papers, not run here") < text.index("| A net |")
    assert text.index("## Reported by papers, not run here\n\n", text.index("A net")) > 0
    write_page(read_folder(tables), Findings(), tmp_path / "site", tables=tables)
    page = (tmp_path / "site" / "index.html").read_text()
    assert "Reported by papers, not run here" in page
    assert "&lt;b&gt;Other&lt;/b&gt;" in page
    assert 'href="https://example.org/paper"' in page


def test_without_figures_of_papers_no_part_is_made():
    assert "Reported" not in to_markdown([entry("m", "CCUB")])


def test_the_shipped_figures_are_read():
    reported = read_reported(shipped("leaderboards"))
    tables = {one.table for one in reported}
    assert ("fashion_mnist", "L2", 0.3) in tables
    assert ("cifar10", "L2", 36 / 255) in tables
    # What papers report of CIFAR-10 stands beside no table of its copies.
    assert not any(dataset == "cifar10_jpeg" for dataset, _, _ in tables)
