"""Rows about a model and images from files of one's own: a replay is told where they are."""

import numpy as np
import pytest
import torch
from oracles.command import dynbench_here, refused
from oracles.forgeries import entries_of
from safetensors.torch import save_file

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.datasets import catalogue
from robustbench_dyn.reporting.publishing import publish
from robustbench_dyn.results.store import Store
from robustbench_dyn.smoothing import Smoothing, evaluate_smoothed

NET = """
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 3){after})
"""
DATA, MODEL = ("--dataset", "npz:data.npz"), ("--model", "module:net.py:build")
WEIGHTS = ("--weights", "net.safetensors")
REPLAY = ("--replay", "--sample", "20", "--seed", "3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of net.py, its weights and its images, and of the tables of two rows about them."""
    place = tmp_path_factory.mktemp("own")
    (place / "net.py").write_text(NET.format(after=""))
    (place / "negated").mkdir()
    (place / "negated" / "net.py").write_text(NET.format(after=", nn.Softmin(dim=1)"))
    weight = {"1.weight": torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])}
    save_file(weight | {"1.bias": torch.tensor([0.0, 0.0, 2.0])}, place / "net.safetensors")
    save_file(weight | {"1.bias": torch.zeros(3)}, place / "other.safetensors")
    points = np.random.default_rng(0).random((30, 2), dtype=np.float32)
    x, y = points[:, :, None, None], np.where(points.max(axis=1) > 0.4, points.argmax(axis=1), 2)
    np.savez(place / "data.npz", x=x, y=y)
    np.savez(place / "others.npz", x=x[::-1], y=y[::-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        model = load_model("module:net.py:build", weights="net.safetensors")
        data, ball, store = load_dataset("npz:data.npz"), ThreatModel("L2", 0.05), Store(None)
    evaluate(model, data, ball, attacks="pgd:n_steps=2", certifiers="lipschitz", store=store)
    evaluate_smoothed(model, data, [ball], Smoothing(0.1, n0=10, n=200), store=store)
    publish(entries_of(store, n_adversarial=2), place / "tables")
    store.close()
    return place


@pytest.fixture
def verify(place, monkeypatch, capsys):
    """Verify the tables as a process does that has not opened the images before."""
    monkeypatch.setattr(catalogue, "_OPENED", {})
    monkeypatch.setattr(catalogue, "_NAMES", {})
    return lambda *options: dynbench_here(
        ("verify", "tables", *options), place, monkeypatch, capsys
    )


def test_rows_of_files_hold_where_the_files_are_given(verify):
    result = verify(*MODEL, *WEIGHTS, *DATA, *REPLAY)
    assert result.returncode == 0, result.stdout
    assert "2 rows verified by replay: all hold" in result.stdout
    assert "holds  module/net/build on 30 examples" in result.stdout
    assert "holds  module/net/build~0.1 on 30 examples" in result.stdout
    assert "all 30 clean predictions hold" in result.stdout
    assert "not checked" not in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "is the name of files that a row does not tell; give --dataset npz:FILE"),
        (DATA, "which a row does not tell; give --model module:FILE.py:FUNCTION"),
        ((*DATA, *MODEL), "the row is about other weights"),
        ((*DATA, *MODEL, "--weights", "other.safetensors"), "the row is about other weights"),
        (("--dataset", "npz:others.npz", *MODEL, *WEIGHTS), "is the name of files"),
        (
            (*DATA, "--model", "module:negated/net.py:build", *WEIGHTS),
            "the model predicts another class",
        ),
    ],
)
def test_a_replay_without_the_files_of_the_row_fails_with_the_reason(options, said, verify):
    result = verify(*options, *REPLAY)
    assert result.returncode == 1
    assert said in result.stdout, result.stdout


def test_files_may_have_been_renamed(verify, place):
    for name in ("data.npz", "net.safetensors"):
        (place / f"sent-{name}").write_bytes((place / name).read_bytes())
    renamed = ("--weights", "sent-net.safetensors", "--dataset", "npz:sent-data.npz")
    result = verify(*MODEL, *renamed, *REPLAY)
    assert result.returncode == 0, result.stdout
    assert "not checked" not in result.stdout


def test_a_recount_checks_images_that_are_given(verify):
    assert "labels and adversarial examples are not checked" in verify().stdout
    result = verify(*DATA)
    assert result.returncode == 0 and "not checked" not in result.stdout


def test_handed_in_images_are_assessed_with_the_file_of_the_model(verify, place, tmp_path):
    x = np.load(place / "data.npz")["x"]
    moved = np.clip(x + np.float32(0.04) * np.sign(x[:, ::-1] - x), 0, 1)
    file = tmp_path / "found.npz"
    np.savez(file, x_adv=moved, example_id=np.arange(30), model="module/net/build")
    result = verify("--evidence", file, *MODEL, *WEIGHTS, *DATA)
    assert result.returncode == 0, result.stderr
    assert "example 0 nothing" in result.stdout
    refused(verify("--evidence", file, *DATA), "give --model module:FILE.py:FUNCTION")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--weights", "net.safetensors"), "which run the model"),
        (("--replay", *WEIGHTS), "--model, as module:FILE.py:FUNCTION"),
        (("--replay", "--model", "module:no.py:build"), "there is no file"),
        (("--dataset", "moons"), "names no files; give npz:FILE"),
        (("--model", "module:negated/net.py:other"), "has no row of module/net/other"),
    ],
)
def test_options_that_cannot_hold_are_refused(options, words, verify):
    refused(verify(*options), words)
