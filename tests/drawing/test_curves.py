"""Curves over eps: brackets in steps, in one panel or in several."""

import pytest
from oracles.command import dynbench_here

from robustbench_dyn import ThreatModel, evaluate, evaluate_distances, load_dataset, load_model
from robustbench_dyn.drawing.curves import plot_curves
from robustbench_dyn.evaluation.result import CurveEvaluation
from robustbench_dyn.reporting.curves import curve


@pytest.mark.slow
def test_curves_bracket_each_model(moons, evaluation):
    cheap = "lipschitz,interval"
    evaluations = {
        name: evaluate_distances(load_model(name, dataset="moons"), moons, "L2", certifiers=cheap)
        for name in ("lipflow", "feedforward")
    }
    (axes,) = plot_curves(evaluations).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(evaluations)
    empirical, certified = axes.lines[:2]
    assert (empirical.get_ydata() >= certified.get_ydata()).all()
    assert axes.lines[3].get_ydata().max() == axes.lines[3].get_ydata()[0]


def test_curves_claim_nothing_between_two_radii(moons, flow):
    evaluation = evaluate_distances(
        flow, moons, "L2", radii=[0.0, 0.1, 0.2], certifiers="lipschitz"
    )
    (axes,) = plot_curves({"lipflow": evaluation}).axes
    empirical, certified = axes.lines
    # Between two radii: certified as at the larger radius, empirical as at the smaller one.
    assert (empirical.get_drawstyle(), certified.get_drawstyle()) == ("steps-post", "steps-pre")
    table = 100 * curve(evaluation)
    assert certified.get_ydata().tolist() == table["certified_accuracy"].tolist()
    (area,) = axes.collections
    corners = area.get_paths()[0].vertices
    between = {y for x, y in corners if 0.1 < x < 0.2} | {
        y for x, y in corners if x == pytest.approx(0.2)
    }
    assert between == {table["certified_accuracy"][2], table["empirical_accuracy"][1]}


def test_eps_in_linf_is_labelled_in_255ths(moons, flow):
    radii = [0.0, 8 / 255, 16 / 255]
    evaluation = evaluate_distances(flow, moons, "Linf", radii=radii, certifiers="interval")
    (axes,) = plot_curves({"lipflow": evaluation}).axes
    labels = dict(
        zip((text.get_text() for text in axes.get_xticklabels()), axes.get_xticks(), strict=True)
    )
    assert labels["8/255"] == 8 / 255
    assert max(labels.values()) <= 16 / 255
    assert "certified %" in axes.figure.get_suptitle()


def test_the_title_names_data_examples_norm_and_attack(moons, flow, evaluation):
    title = plot_curves({"a": evaluation}).get_suptitle()
    for words in ("moons", "12 examples", "L2", "fab-min"):
        assert words in title
    assert plot_curves({"a": evaluation}, title="mine").get_suptitle().startswith("mine\n")


@pytest.mark.parametrize(("n", "panels"), [(1, 1), (3, 1), (4, 4), (8, 8)])
def test_more_than_three_models_have_a_panel_each(n, panels, evaluation):
    names = [f"model-{k}" for k in range(n)]
    axes = [a for a in plot_curves(dict.fromkeys(names, evaluation)).axes if a.get_visible()]
    assert len(axes) == panels
    if panels > 1:
        assert [a.get_title() for a in axes] == names
        # The bracket of the panel's model, and all others behind it.
        assert {len(a.lines) for a in axes} == {2 * n}
        assert {len(a.collections) for a in axes} == {1}


def test_shared_brackets_are_filled_on_demand_alone(evaluation):
    two = {"a": evaluation, "b": evaluation}
    assert len(plot_curves(two).axes[0].collections) == 0
    assert len(plot_curves(two, bands=True).axes[0].collections) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("L2", 0.05), ("Linf", 0.03)])
def test_a_curve_has_the_certificates_that_a_run_has(moons, norm, eps):
    # Its global Lipschitz bound proves nothing; other certifiers of auto do.
    model = load_model("feedforward", dataset="moons")
    single = evaluate(model, moons, ThreatModel(norm, eps)).summary
    found = curve(evaluate_distances(model, moons, norm, radii=[eps]))
    assert found["certified_accuracy"].tolist() == [single["certified_accuracy"]]
    assert found["empirical_accuracy"].tolist() == [single["empirical_accuracy"]]
    assert single["certified_accuracy"] > 0
    lipschitz = evaluate_distances(model, moons, norm, radii=[eps], certifiers="lipschitz")
    assert curve(lipschitz)["certified_accuracy"].tolist() < [single["certified_accuracy"]]


def test_the_command_draws_with_the_certifiers_of_a_run(tmp_path, monkeypatch, capsys):
    drawn, points = {}, load_dataset("moons", n_examples=2)

    def keep(evaluations, **options):
        drawn.update(evaluations)
        return plot_curves(evaluations, **options)

    monkeypatch.setattr("robustbench_dyn.drawing.curves.plot_curves", keep)
    arguments = ["plot", "curves", "--dataset", "moons", "--n-examples", 2, "--to", "c.pdf"]
    for name in ("prototype_flow", "naive_lipschitz"):
        arguments += ["--model", name]
    result = dynbench_here(arguments, tmp_path, monkeypatch, capsys)
    assert (result.returncode, result.stdout) == (0, "written to c.pdf\n"), result.stderr
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")
    assert list(drawn) == ["prototype_flow", "naive_lipschitz"]
    for name, evaluation in drawn.items():
        assert isinstance(evaluation, CurveEvaluation)
        network = load_model(name, dataset="moons", norm="L2")
        single = evaluate(network, points, ThreatModel("L2", 0.1), attacks="none").summary
        certified = curve(evaluation, [0.1])["certified_accuracy"][0]
        assert certified == single["certified_accuracy"] > 0
