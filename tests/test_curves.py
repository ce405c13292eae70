"""Curves over eps, against distances that are known exactly, and against runs at single eps."""

import json

import numpy as np
import pytest
from oracles import halfspaces, points
from test_cli import dynbench_here, refused

from robustbench_dyn import InputError, ThreatModel, evaluate
from robustbench_dyn.curves import curve, evaluate_distances

DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.45)


def test_the_curve_steps_at_the_exact_distances():
    evaluation = evaluate_distances(halfspaces(), points(DISTANCES), "L2")
    found = evaluation.examples["adversarial_distance"]
    assert (abs(found / np.array(DISTANCES) - 1) < 0.01).all()
    table = curve(evaluation, [0.0, 0.15, 0.25, 0.5])
    assert table["certified_accuracy"].tolist() == [1.0, 4 / 6, 3 / 6, 0.0]
    assert table["empirical_accuracy"].tolist() == [1.0, 4 / 6, 3 / 6, 0.0]


def test_a_layer_that_is_steeper_than_it_claims_sets_off_the_alarm():
    from robustbench_dyn import SoundnessError  # noqa: PLC0415

    with pytest.raises(SoundnessError, match="inside a certified ball"):
        evaluate_distances(halfspaces(factor=1.05, claim=0.5), points(DISTANCES), "L2")


def test_without_a_certificate_the_lower_curve_is_zero_beyond_the_start():
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
    options = ["curve", "--model", "lipflow", "--n-examples", "6", "--eps", "0.1", "--eps", "0.5"]
    result = dynbench_here([*options, "--json", "--export", "c.csv"], tmp_path, monkeypatch, capsys)
    rows = json.loads(result.stdout)["curve"]
    assert [row["eps"] for row in rows] == [0.1, 0.5]
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 3
    again = dynbench_here(options, tmp_path, monkeypatch, capsys)
    assert f"{100 * rows[1]['certified_accuracy']:.1f}" in again.stdout
    refused(dynbench_here([*options, "--eps", "99"], tmp_path, monkeypatch, capsys), "8/255, not 8")
