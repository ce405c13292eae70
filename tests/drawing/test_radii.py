"""Pictures of certified radii and distances, against curves that are known."""

import math

import pytest
from oracles import halfspaces, points
from oracles.command import dynbench_here

from robustbench_dyn import ThreatModel, evaluate, evaluate_distances
from robustbench_dyn.drawing.radii import plot_bracket, plot_radii
from robustbench_dyn.results.curves import curve_points

DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.45)


def heights(line, x):
    """Return the value of a line of steps at x."""
    xs, ys = line.get_data()
    after = line.get_drawstyle() == "steps-post"
    known = [y for at, y in zip(xs, ys, strict=True) if (at <= x if after else at >= x)]
    return known[-1] if after else known[0]


@pytest.mark.parametrize("certifiers", ["auto", "none"])
def test_the_lines_are_the_shares_of_examples(certifiers):
    evaluation = evaluate_distances(halfspaces(), points(DISTANCES), "L2", certifiers=certifiers)
    empirical, certified = plot_radii(evaluation).axes[0].lines
    for eps in (0.01, 0.07, 0.15, 0.25, 0.35, 0.42):
        (point,) = curve_points(evaluation.verdicts, [eps])
        assert heights(certified, eps) == 100 * point.certified_accuracy
        assert heights(empirical, eps) == 100 * point.empirical_accuracy
    assert heights(empirical, 0.25) == 50


def test_the_histograms_count_every_example():
    evaluation = evaluate_distances(halfspaces(), points(DISTANCES), "L2")
    below = plot_radii(evaluation).axes[1]
    told = [text.get_text() for text in below.get_legend().get_texts()]
    assert told == ["certified radii (6)", "distances of adversarial examples (6)"]
    bars = [patch for patch in below.patches if hasattr(patch, "get_height")]
    assert sum(bar.get_height() for bar in bars) == 6


def test_examples_without_a_radius_are_told():
    evaluation = evaluate_distances(halfspaces(), points(DISTANCES), "L2", certifiers="none")
    told = plot_radii(evaluation).axes[1].get_legend().get_texts()[-1].get_text()
    assert told == "correct, no radius proved (6)"


def test_attacks_say_nothing_beyond_their_eps():
    evaluation = evaluate(halfspaces(), points(DISTANCES), ThreatModel("L2", 0.25), attacks="pgd")
    bar, axes = plot_bracket(evaluation).axes
    assert [text.get_text() for text in bar.get_legend().get_texts()] == ["certified 3", "broken 3"]
    empirical, certified = axes.lines[:2]
    assert max(empirical.get_xdata()) == 0.25
    assert heights(empirical, 0.25) == heights(certified, 0.25) == 50
    assert math.isclose(max(certified.get_xdata()), 0.45, abs_tol=0.01)


def test_the_command_draws_radii(tmp_path, monkeypatch, capsys):
    arguments = ["plot", "radii", "--model", "lipflow", "--dataset", "moons"]
    arguments += ["--certifiers", "lipschitz", "--n-examples", 4, "--to", "radii.svg"]
    result = dynbench_here(arguments, tmp_path, monkeypatch, capsys)
    assert (result.returncode, result.stdout) == (0, "written to radii.svg\n"), result.stderr
    assert "lipflow on 4 examples of moons" in (tmp_path / "radii.svg").read_text()
