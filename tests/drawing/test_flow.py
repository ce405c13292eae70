"""A flow in the plane: trajectories, decision regions, balls, adversarial examples."""

import numpy as np
import pytest
import torch
from oracles.command import dynbench_here, refused
from torch import nn

from robustbench_dyn import load_dataset, load_model
from robustbench_dyn.drawing.figures import save
from robustbench_dyn.drawing.flow import plot_flow
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation import distances
from robustbench_dyn.evaluation.distances import evaluate_distances


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
    lengths = [len(trajectory.get_xdata()) for trajectory in trajectories]
    # Lines without points stand for the classes in the legend.
    assert sorted(lengths) == [0, 0, *[14] * len(moons.x)]


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


def test_all_that_is_drawn_is_in_the_legends(moons, flow, evaluation):
    left, right = plot_flow(flow, moons, evaluation).axes
    told = [text.get_text() for axes in (left, right) for text in axes.get_legend().get_texts()]
    for words in ("first state", "last state", "region of", "certified ball", "adversarial"):
        assert any(words in text for text in told), words
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in (left, right))


def test_without_certificates_no_ball_is_announced(moons, flow):
    bare = evaluate_distances(flow, moons, "L2", certifiers="none")
    right = plot_flow(flow, moons, bare).axes[1]
    assert "no certified ball" in right.get_title()
    assert "certified ball" not in [text.get_text() for text in right.get_legend().get_texts()]
