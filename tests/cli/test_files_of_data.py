"""Commands take files of data in the place of a data set's name."""

import json
import sqlite3

import pytest
from oracles.command import dynbench_here
from oracles.files_of_data import write_data, write_nearest

from robustbench_dyn.datasets import dataset_name


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return lambda *arguments: dynbench_here(arguments, tmp_path, monkeypatch, capsys)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return the options that name the data and the model, as they are typed in their folder."""
    monkeypatch.chdir(tmp_path)
    data = write_data("three.npz")
    write_nearest(tmp_path / "nearest", data)
    return ["--plugins", "nearest", "--dataset", data]


def test_run_resumes_on_the_same_file(command, files, tmp_path):
    line = ["run", "--model", "nearest", *files, "--eps", "0.05", "--attacks", "pgd", "--json"]
    first = json.loads(command(*line, "--n-examples", "2").stdout)
    (row,) = first["rows"]
    assert row["dataset"] == dataset_name("npz:three.npz")
    assert (row["n_examples"], row["clean_accuracy"]) == (2, 1)
    (more,) = json.loads(command(*line, "--n-examples", "3").stdout)["rows"]
    assert more["data_sha256"] == row["data_sha256"]
    with sqlite3.connect(tmp_path / "dynbench.sqlite") as store:
        assert list(store.execute("SELECT count(*) FROM evaluations")) == [(1,)]
        assert list(store.execute("SELECT count(*) FROM verdicts")) == [(3,)]


@pytest.mark.parametrize(
    "line",
    [
        "curve",
        "smooth --sigma 0.1 --n0 2 --n 10 --eps 0.05 --attacks none",
    ],
    ids=["curve", "smooth"],
)
def test_curve_and_smooth_take_files(command, files, line):
    name, *options = line.split()
    more = ["--model", "nearest", "--n-examples", "3", "--json"]
    result = command(name, *options, *files, *more)
    assert (result.returncode, json.loads(result.stdout) != {}) == (0, True)


@pytest.mark.slow
def test_a_sweep_takes_files(command, files, tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        'models: [nearest]\ndatasets: ["npz:three.npz"]\n'
        "threat_models: [{norm: L2, eps: [0.05]}]\nn_examples: 3\nexamples_per_shard: 2\n"
        "seeds: [0]\nattacks: none\n"
    )
    result = command("sweep", "sweep.yaml", "--plugins", "nearest", "--store", "s.sqlite")
    assert result.returncode == 0
    assert dataset_name("npz:three.npz") in result.stdout
