"""Curves over eps, against distances that are known exactly, and against runs at single eps."""

import json

import numpy as np
import pytest
import torch
from oracles import halfspaces, points
from oracles.certifiers import proving
from oracles.command import dynbench_here, refused
from oracles.digits_plugin import write_plugin
from oracles.functions import BySize, Honest

from robustbench_dyn import (
    InputError,
    SoundnessError,
    ThreatModel,
    evaluate,
    evaluate_grid,
    load_dataset,
    load_model,
)
from robustbench_dyn.attacks import FABMin
from robustbench_dyn.certification.base import Proof
from robustbench_dyn.evaluation.distances import evaluate_distances
from robustbench_dyn.reporting.curves import curve

DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.45)


def test_the_curve_steps_at_the_exact_distances():
    evaluation = evaluate_distances(halfspaces(), points(DISTANCES), "L2")
    found = evaluation.examples["adversarial_distance"]
    assert (abs(found / np.array(DISTANCES) - 1) < 0.01).all()
    table = curve(evaluation, [0.0, 0.15, 0.25, 0.5])
    assert table["certified_accuracy"].tolist() == [1.0, 4 / 6, 3 / 6, 0.0]
    assert table["empirical_accuracy"].tolist() == [1.0, 4 / 6, 3 / 6, 0.0]


def test_a_layer_above_its_claimed_bound_raises_soundness_error(believed):
    with pytest.raises(SoundnessError, match="inside a certified ball"):
        evaluate_distances(halfspaces(factor=1.05, claim=0.5), points(DISTANCES), "L2")


def test_without_a_certificate_the_lower_curve_is_zero():
    evaluation = evaluate_distances(halfspaces(), points(DISTANCES), "L2", certifiers="none")
    table = curve(evaluation, [0.0, 0.01, 0.15])
    assert table["certified_accuracy"].tolist() == [1.0, 0.0, 0.0]
    assert table["empirical_accuracy"].tolist() == [1.0, 1.0, 4 / 6]


@pytest.mark.parametrize("norm", ["L2", "Linf", "L1"])
def test_the_curve_goes_down_and_agrees_with_runs_at_single_eps(norm):
    data = points(DISTANCES)
    evaluation = evaluate_distances(halfspaces(), data, norm)
    table = curve(evaluation)
    assert len(table) == 33
    for column in ("certified_accuracy", "empirical_accuracy"):
        assert table[column].is_monotonic_decreasing
    assert (table["certified_accuracy"] <= table["empirical_accuracy"]).all()
    for row in table.iloc[[4, 12, 20]].itertuples():
        single = evaluate(halfspaces(), data, ThreatModel(norm, row.eps), attacks="fab-t").summary
        assert single["certified_accuracy"] == row.certified_accuracy
        assert single["empirical_accuracy"] == row.empirical_accuracy


@pytest.mark.parametrize(
    ("name", "norm", "radii"),
    [("feedforward", "L2", [0.05, 0.15]), ("euler_resnet", "Linf", [0.03, 0.1])],
)
@pytest.mark.slow
def test_the_curve_certifies_what_runs_at_its_eps_certify(name, norm, radii):
    model, data = load_model(name, dataset="moons"), load_dataset("moons", n_examples=6)
    table = curve(evaluate_distances(model, data, norm, radii=radii)).set_index("eps")
    grid = [ThreatModel(norm, eps) for eps in radii]
    for single in evaluate_grid(model, data, grid, attacks="fab-t"):
        row = single.summary
        assert table["certified_accuracy"][row["eps"]] == row["certified_accuracy"]
        assert table["empirical_accuracy"][row["eps"]] == row["empirical_accuracy"]
    assert table["certified_accuracy"].iloc[0] > 0.5
    # The control: by bounds that hold at any eps alone nothing of this is known.
    bare = curve(evaluate_distances(model, data, norm, radii=radii, certifiers="lipschitz"))
    assert (bare["certified_accuracy"] == 0).all()


@pytest.mark.parametrize("radius", [0.0, 0.07, 0.2, 0.33, 0.5])
def test_the_largest_provable_radius_of_the_grid_is_found(radius):
    tried = []

    def prove(_state, x, logits, _y, threat_model):
        tried.append((threat_model.eps, len(x)))
        holds = threat_model.eps if threat_model.eps <= radius else 0.0
        return Proof(torch.full(logits.shape, holds, dtype=torch.float64))

    grid, ball = np.linspace(0, 0.43, 12).tolist(), proving("ball", prove).certifier
    found = evaluate_distances(halfspaces(), points(DISTANCES), "L2", radii=grid, certifiers=[ball])
    for verdict, distance in zip(found.verdicts, DISTANCES, strict=True):
        provable = [eps for eps in grid if 0 < eps <= radius and eps < distance * 0.999]
        if provable:
            assert verdict.certified_radius == max(provable)
        else:
            assert np.isnan(verdict.certified_radius)
        assert verdict.adversarial_distance == pytest.approx(distance, rel=0.01)
    # No example is tried more often than bisection takes: 4 of 11 radii.
    assert sum(n for _, n in tried) <= 4 * len(DISTANCES)


def test_an_adversarial_example_of_a_certifier_may_refute(monkeypatch):
    def proving_up_to(radius):
        """Return a certifier of balls up to radius, which knows the nearest adversarial example."""

        def prove(_state, x, logits, y, threat_model):
            holds = threat_model.eps if threat_model.eps <= radius else 0.0
            other = x.clone()
            for row, label in enumerate(y.tolist()):
                other[row].view(-1)[label] = x[row].view(-1)[1 - label] - 1e-4
            proof = torch.full(logits.shape, holds, dtype=torch.float64)
            return Proof(proof, x if holds else other)

        return [proving("ball", prove).certifier]

    # The attack comes out at twice the distance of the nearest one.
    monkeypatch.setattr(FABMin, "perturb", lambda _self, problem: flipped(problem.x, problem.y))
    radii, data = [0.05, 0.15, 0.25, 0.35], points([0.1] * 3)
    options = {"radii": radii, "certifiers": proving_up_to(0.06)}
    found = evaluate_distances(halfspaces(), data, "L2", **options)
    for verdict in found.verdicts:
        assert verdict.attack == "ball"
        assert verdict.adversarial_distance == pytest.approx(0.1 * 2**0.5, rel=0.01)
        assert verdict.certified_radius == 0.05
    options["certifiers"] = proving_up_to(0.16)
    with pytest.raises(SoundnessError, match="inside a certified ball"):
        evaluate_distances(halfspaces(), data, "L2", **options)


def flipped(x, y):
    """Overshoot the plane between the two classes by far."""
    rows, other = x.clone().flatten(1), 1 - y
    index = torch.arange(len(x))
    rows[index, y] -= 0.15
    rows[index, other] += 0.25
    return rows.view_as(x)


def test_a_model_that_is_no_function_has_no_certified_curve():
    data = points(DISTANCES)
    for model, share in ((Honest(), 5 / 6), (BySize(), 0)):
        found = evaluate_distances(model, data, "L2", radii=[0.0, 0.07])
        assert curve(found)["certified_accuracy"].iloc[1] == share
        assert ("batch_coupled" in found.summary["flags"]) == (share == 0)


def test_misclassified_examples_stand_at_no_eps():
    x, y = points(DISTANCES)
    table = curve(evaluate_distances(halfspaces(), (x, 1 - y), "L2"), [0.0, 0.1])
    assert table["certified_accuracy"].tolist() == table["empirical_accuracy"].tolist() == [0, 0]


def test_radii_outside_the_curve_are_refused():
    evaluation = evaluate_distances(halfspaces(), points(DISTANCES), "L2")
    for eps in (-0.1, 1.1):
        with pytest.raises(InputError, match="outside the curve, which goes from 0 to 1"):
            curve(evaluation, [eps])


def test_the_command_prints_and_writes_the_curve(tmp_path, monkeypatch, capsys):
    write_plugin(tmp_path / "nearest")
    options = ["curve", "--model", "nearest", "--plugins", tmp_path / "nearest"]
    options += ["--dataset", "digits", "--n-examples", "12", "--eps", "0.1", "--eps", "0.5"]
    result = dynbench_here([*options, "--json", "--export", "c.csv"], tmp_path, monkeypatch, capsys)
    rows = json.loads(result.stdout)["curve"]
    assert [row["eps"] for row in rows] == [0.1, 0.5]
    assert 1 > rows[0]["certified_accuracy"] > rows[1]["certified_accuracy"] > 0
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 3
    again = dynbench_here(options, tmp_path, monkeypatch, capsys)
    assert f"{100 * rows[1]['certified_accuracy']:.1f}" in again.stdout
    refused(dynbench_here([*options, "--eps", "99"], tmp_path, monkeypatch, capsys), "8/255, not 8")
