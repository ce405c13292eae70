"""Tables as pictures: a bar for each model, as long as its row says."""

import pytest
from oracles.command import dynbench_here, refused

from robustbench_dyn.drawing.leaderboard import Bracket, Table, plot_leaderboard
from robustbench_dyn.reporting.aggregation import lines
from robustbench_dyn.reporting.published import read_table
from robustbench_dyn.resources import shipped

PUBLISHED = shipped("leaderboards") / "fashion_mnist-Linf-8_255.csv"


def bracket(label, certified, empirical, *, ranked=True):
    return Bracket(label, certified, empirical, 0.9, 0.1, 0.8, ranked)


TABLE = Table(
    "moons, L2, eps 0.1",
    [bracket("a", 0.5, 0.7), bracket("b", 0.25, None), bracket("c$", 0.0, 0.5, ranked=False)],
)


def bars(axes):
    return [(round(p.get_x(), 6), round(p.get_width(), 6)) for p in axes.patches]


def test_bars_go_from_certified_to_empirical():
    (axes,) = plot_leaderboard([TABLE]).axes
    # Without an attack, the clean accuracy is the upper bound.
    assert bars(axes) == [(0, 50), (50, 20), (0, 25), (25, 65), (0, 0), (0, 50)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", r"c\$ *"]
    assert axes.get_title() == TABLE.title
    assert "not ranked" in axes.get_xlabel()


def test_a_table_has_a_panel_and_all_share_a_legend():
    figure = plot_leaderboard([TABLE] * 4)
    assert sum(axes.get_visible() for axes in figure.axes) == 4
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 4


def test_the_command_draws_the_published_tables(tmp_path, monkeypatch, capsys):
    drawn = []

    def keep(tables):
        drawn.extend(tables)
        return plot_leaderboard(tables)

    monkeypatch.setattr("robustbench_dyn.drawing.leaderboard.plot_leaderboard", keep)
    arguments = ["plot", "leaderboard", "--tables", PUBLISHED, "--norm", "Linf", "--to", "t.png"]
    result = dynbench_here(arguments, tmp_path, monkeypatch, capsys)
    assert (result.returncode, result.stdout) == (0, "written to t.png\n"), result.stderr
    (expected,) = lines(read_table(PUBLISHED))
    (table,) = drawn
    assert table.title == expected.title
    assert [one.certified for one in table.brackets] == [o.certified.mean for o in expected.lines]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tables", PUBLISHED, "--eps", "3"], "no table of eps 3"),
        (["--tables", PUBLISHED, "--dataset", "mnist", "--norm", "L2"], "no table of mnist, L2"),
        (["--tables", "nowhere"], "no folder nowhere"),
        (["--tables", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_tables_that_do_not_exist_are_refused(options, words, tmp_path, monkeypatch, capsys):
    arguments = ["plot", "leaderboard", "--to", "t.png", *options]
    refused(dynbench_here(arguments, tmp_path, monkeypatch, capsys), words)
