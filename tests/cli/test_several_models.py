"""Several models in one command: a table for each, and one JSON document."""

import json

import pandas as pd
import pytest
from oracles.digits_plugin import HONEST, write_plugin

from robustbench_dyn import cli

DIGITS = ["--dataset", "digits", "--n-examples", "4"]


@pytest.fixture
def two(tmp_path, monkeypatch):
    """The options of two models, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    options = []
    for name in ("one", "other"):
        write_plugin(tmp_path / name, HONEST)
        options += ["--model", name, "--plugins", name]
    return options


def run(capsys, *arguments):
    assert cli.run([*map(str, arguments)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_run_evaluates_each_model_once(two, capsys):
    options = [*two, "--model", "one", *DIGITS, "--attacks", "none"]
    document = json.loads(run(capsys, "run", *options, "--json", "--export", "x.csv"))
    assert [row["model"] for row in document["rows"]] == ["one", "other"]
    assert {stage["model"] for stage in document["run"]["stages"]} == {"one", "other"}
    assert set(document["run"]["not_applicable"]) == {"one", "other"}
    assert pd.read_csv("x.csv").groupby("model")["example_id"].count().to_dict() == {
        "one": 4,
        "other": 4,
    }
    printed = run(capsys, "run", *options)
    assert "one on 4 examples" in printed
    assert "other on 4 examples" in printed


def test_the_document_of_one_model_stays_as_it_is(two, capsys):
    options = [*two[:4], *DIGITS, "--attacks", "none"]
    document = json.loads(run(capsys, "run", *options, "--json", "--export", "x.csv"))
    assert [row["model"] for row in document["rows"]] == ["one"]
    assert "one" not in document["run"]["not_applicable"]
    assert "model" not in pd.read_csv("x.csv")


def test_smooth_and_curve_evaluate_each_model(two, capsys):
    options = [*two, *DIGITS]
    smoothed = run(capsys, "smooth", *options, "--sigma", "0.25", "--attacks", "none", "--json")
    names = [row["model"] for row in json.loads(smoothed)["rows"]]
    assert names == ["one~0.25", "other~0.25"]
    drawn = run(capsys, "curve", *options, "--eps", "0.05", "0.1", "--json", "--export", "x.csv")
    curves = json.loads(drawn)["curves"]
    assert [curve["model"] for curve in curves] == ["one", "other"]
    assert [point["eps"] for point in curves[0]["curve"]] == [0.05, 0.1]
    assert pd.read_csv("x.csv")["model"].tolist() == ["one", "one", "other", "other"]
    alone = run(capsys, "curve", *two[:4], *DIGITS, "--eps", "0.1", "--json")
    assert json.loads(alone)["model"] == "one"


@pytest.mark.parametrize("norm", ["l2", "linf", "LINF", "L2"])
def test_a_norm_is_taken_in_any_case(norm, two, capsys):
    options = [*two[:4], *DIGITS, "--attacks", "none", "--norm", norm, "--json"]
    row = json.loads(run(capsys, "run", *options))["rows"][0]
    assert row["norm"] == {"l2": "L2", "linf": "Linf"}[norm.lower()]


def test_a_small_data_set_is_taken_as_a_whole(two, capsys):
    options = [*two[:4], "--dataset", "digits", "--first", "495", "--attacks", "none", "--json"]
    row = json.loads(run(capsys, "run", *options))["rows"][0]
    assert (row["first_example"], row["n_examples"]) == (495, 5)
