"""Plots: drawn from evidence, written as PNG or SVG, the same each time."""

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_dyn import load_dataset, load_model
from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.curves import curve, evaluate_distances
from robustbench_dyn.reporting.plots import plot_curves, plot_flow, save


@pytest.fixture(scope="module")
def moons():
    return load_dataset("moons", n_examples=12)


@pytest.fixture(scope="module")
def flow():
    return load_model("lipflow", dataset="moons", norm="L2")


def test_certified_balls_and_adversarial_examples_are_where_the_evidence_is(moons, flow):
    right = plot_flow(flow, moons).axes[1]
    evaluation = evaluate_distances(flow, moons, "L2")
    radii = sorted(v.certified_radius for v in evaluation.verdicts if v.certified_radius > 0)
    assert sorted(patch.radius for patch in right.patches) == pytest.approx(radii)
    crosses = [line for line in right.lines if line.get_marker() == "x"]
    broken = [v for v in evaluation.verdicts if v.status == "broken"]
    assert len(crosses) == len(broken) > 0
    found = torch.tensor(np.array([line.get_xydata()[0] for line in crosses])).float()
    labels = torch.tensor([v.label for v in broken])
    with torch.no_grad():
        assert not (flow(found.reshape(-1, 2, 1, 1)).argmax(dim=1) == labels).any()


def test_a_way_has_a_state_for_each_layer_of_the_flow(moons, flow):
    left = plot_flow(flow, moons).axes[0]
    # The lift, twelve steps, and the flattening.
    ways = [line for line in left.lines if line.get_linestyle() == "-"]
    assert {len(way.get_xdata()) for way in ways} == {14}
    assert len(ways) == len(moons.x)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_written_twice_alike(moons, flow, suffix, tmp_path):
    contents = []
    for name in ("a", "b"):
        path = tmp_path / "new" / (name + suffix)
        save(plot_flow(flow, moons), path)
        contents.append(path.read_bytes())
    assert contents[0][:4] in (b"\x89PNG", b"<?xm")
    assert contents[0] == contents[1]


def test_curves_bracket_each_model(moons, flow):
    cheap = "lipschitz,interval"
    found = {
        name: evaluate_distances(load_model(name, dataset="moons"), moons, "L2", certifiers=cheap)
        for name in ("lipflow", "hamiltonian")
    }
    (axes,) = plot_curves(found).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(found)
    empirical, certified = axes.lines[:2]
    assert (empirical.get_ydata() >= certified.get_ydata()).all()
    assert axes.lines[3].get_ydata().max() == axes.lines[3].get_ydata()[0]


def test_curves_claim_nothing_between_two_radii(moons, flow):
    evaluation = evaluate_distances(flow, moons, "L2", radii=[0.0, 0.1, 0.2])
    (axes,) = plot_curves({"lipflow": evaluation}).axes
    empirical, certified = axes.lines
    # From one radius to the next: what is proved at the larger, what stands at the smaller.
    assert (empirical.get_drawstyle(), certified.get_drawstyle()) == ("steps-post", "steps-pre")
    table = 100 * curve(evaluation)
    assert certified.get_ydata().tolist() == table["certified_accuracy"].tolist()
    (area,) = axes.collections
    corners = area.get_paths()[0].vertices
    between = {y for x, y in corners if 0.1 < x < 0.2} | {
        y for x, y in corners if x == pytest.approx(0.2)
    }
    assert between == {table["certified_accuracy"][2], table["empirical_accuracy"][1]}


def test_circles_are_what_any_certifier_proved(moons):
    network = load_model("feedforward", dataset="moons")
    right = plot_flow(network, moons).axes[1]
    assert len(right.patches) > len(moons.x) / 2


def test_pictures_of_images_and_of_unknown_networks_are_refused(moons):
    with pytest.raises(InputError, match="points in the plane"):
        plot_flow(nn.Flatten(), load_dataset("digits", n_examples=2))
    with pytest.raises(InputError, match="no Classifier"):
        plot_flow(nn.Flatten(), moons)


def test_another_ending_is_refused(moons, flow, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.png or \.svg"):
        save(plot_flow(flow, moons), tmp_path / "flow.pdf")
