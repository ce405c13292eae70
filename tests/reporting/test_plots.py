"""Plots: drawn from evaluations, written as PNG or SVG, reproducible byte for byte."""

import numpy as np
import pytest
import torch
from oracles.command import dynbench_here, refused
from torch import nn

from robustbench_dyn import load_dataset, load_model
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation import distances
from robustbench_dyn.evaluation.distances import evaluate_distances
from robustbench_dyn.reporting.curves import curve
from robustbench_dyn.reporting.plots import plot_curves, plot_flow, save


@pytest.fixture(scope="module")
def moons():
    return load_dataset("moons", n_examples=12)


@pytest.fixture(scope="module")
def flow():
    return load_model("lipflow", dataset="moons", norm="L2")


@pytest.fixture(scope="module")
def evaluation(flow, moons):
    return evaluate_distances(flow, moons, "L2")


def test_balls_and_adversarial_examples_match_the_evaluation(moons, flow, evaluation):
    right = plot_flow(flow, moons, evaluation).axes[1]
    radii = sorted(v.certified_radius for v in evaluation.verdicts if v.certified_radius > 0)
    assert sorted(patch.radius for patch in right.patches) == pytest.approx(radii)
    crosses = [line for line in right.lines if line.get_marker() == "x"]
    broken = [v for v in evaluation.verdicts if v.status == "broken"]
    assert len(crosses) == len(broken) > 0
    x_adv = torch.tensor(np.array([line.get_xydata()[0] for line in crosses])).float()
    labels = torch.tensor([v.label for v in broken])
    with torch.no_grad():
        assert not (flow(x_adv.reshape(-1, 2, 1, 1)).argmax(dim=1) == labels).any()


def test_a_trajectory_has_one_state_per_layer(moons, flow, evaluation):
    left = plot_flow(flow, moons, evaluation).axes[0]
    # The lift, twelve steps, and the flattening.
    trajectories = [line for line in left.lines if line.get_linestyle() == "-"]
    assert {len(trajectory.get_xdata()) for trajectory in trajectories} == {14}
    assert len(trajectories) == len(moons.x)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_picture_gives_the_same_bytes(moons, flow, evaluation, suffix, tmp_path):
    contents = []
    for name in ("a", "b"):
        path = tmp_path / "new" / (name + suffix)
        save(plot_flow(flow, moons, evaluation), path)
        contents.append(path.read_bytes())
    assert contents[0][:4] in (b"\x89PNG", b"<?xm")
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_curves_bracket_each_model(moons, evaluation):
    cheap = "lipschitz,interval"
    evaluations = {
        name: evaluate_distances(load_model(name, dataset="moons"), moons, "L2", certifiers=cheap)
        for name in ("lipflow", "hamiltonian")
    }
    (axes,) = plot_curves(evaluations).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(evaluations)
    empirical, certified = axes.lines[:2]
    assert (empirical.get_ydata() >= certified.get_ydata()).all()
    assert axes.lines[3].get_ydata().max() == axes.lines[3].get_ydata()[0]


def test_curves_claim_nothing_between_two_radii(moons, flow):
    evaluation = evaluate_distances(flow, moons, "L2", radii=[0.0, 0.1, 0.2])
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
    assert "certified %" in axes.get_title()


@pytest.mark.slow
def test_the_command_draws_balls_of_any_certifier(tmp_path, monkeypatch, capsys):
    moons, evaluations = load_dataset("moons", n_examples=4), []

    def evaluate(*arguments, **options):
        evaluations.append(evaluate_distances(*arguments, **options))
        return evaluations[-1]

    monkeypatch.setattr(distances, "evaluate_distances", evaluate)
    arguments = ["plot", "flow", "--model", "feedforward", "--n-examples", 4, "--to", "flow.svg"]
    result = dynbench_here(arguments, tmp_path, monkeypatch, capsys)
    assert (result.returncode, result.stdout) == (0, "written to flow.svg\n"), result.stderr
    network = load_model("feedforward", dataset="moons")
    (evaluation,) = evaluations
    figure = plot_flow(network, moons, evaluation, title="feedforward")
    assert len(figure.axes[1].patches) > len(moons.x) / 2
    save(figure, tmp_path / "same.svg")
    assert (tmp_path / "same.svg").read_bytes() == (tmp_path / "flow.svg").read_bytes()


def test_images_and_unknown_networks_are_refused(moons, evaluation):
    with pytest.raises(InputError, match="drawn in the plane"):
        plot_flow(nn.Flatten(), load_dataset("digits", n_examples=2), evaluation)
    with pytest.raises(InputError, match="no Classifier"):
        plot_flow(nn.Flatten(), moons, evaluation)


def test_the_command_refuses_images_before_it_evaluates(tmp_path, monkeypatch, capsys):
    arguments = [
        "plot",
        "flow",
        "--model",
        "lipflow",
        "--dataset",
        "fashion_mnist",
        "--to",
        "a.png",
    ]
    monkeypatch.setattr("robustbench_dyn.evaluation.distances.evaluate_distances", None)
    refused(dynbench_here(arguments, tmp_path, monkeypatch, capsys), "drawn in the plane")


def test_another_suffix_is_refused(moons, flow, evaluation, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.png or \.svg"):
        save(plot_flow(flow, moons, evaluation), tmp_path / "flow.pdf")
