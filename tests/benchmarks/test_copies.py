"""Pairs of originals and copies, and on how many of them verdicts differ."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.errors import InputError

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def copies(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("copies", FOLDER / "copies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in ("measuring", "colour"):
        sys.modules.pop(name, None)


def digits(n=40):
    return replace(load_dataset("digits", n_examples=n), sha256="")


def shuffled_copies(data, *, apart=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator)
    noise = apart * torch.randn(data.x.shape, generator=generator)
    x = (data.x + noise).clamp(0, 1)[order]
    return replace(data, x=x, y=data.y[order]), order


def test_each_original_gets_its_copy(copies):
    data = digits()
    mixed, order = shuffled_copies(data)
    pairs = copies.find_pairs(data.rows(0, 10), mixed)
    places = [int((order == i).nonzero()) for i in range(10)]
    assert torch.equal(pairs.copies.x, mixed.x[places])
    assert torch.equal(pairs.copies.y, data.y[:10])
    expected = (pairs.copies.x - data.x[:10]).flatten(1).double().norm(dim=1)
    torch.testing.assert_close(pairs.distances, expected)


def test_doubtful_pairs_are_refused(copies):
    data = digits()
    mixed, order = shuffled_copies(data)
    first = int((order == 0).nonzero())
    relabelled = mixed.y.clone()
    relabelled[first] = (relabelled[first] + 1) % 10
    elsewhere = mixed.x.clone()
    elsewhere[first] = 0.5
    twice = data.rows(0, 2)
    twice.x[1], twice.y[1] = twice.x[0], twice.y[0]
    for originals, others in (
        (data.rows(0, 10), replace(mixed, y=relabelled)),
        (data.rows(0, 10), replace(mixed, x=elsewhere)),
        (twice, mixed),
    ):
        with pytest.raises(InputError, match="originals have no copy among"):
            copies.find_pairs(originals, others)


def threshold():
    """Return a linear network: class 1 where the mean of an image is above 0.5, else class 0."""
    linear = torch.nn.Linear(64, 10)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[1] = 1 / 64
        linear.bias.copy_(torch.tensor([0.5, 0.0, *[-9.0] * 8]))
    return torch.nn.Sequential(torch.nn.Flatten(), linear)


def test_differences_count_the_pairs_whose_verdicts_differ(copies):
    data = digits(4)
    levels = torch.tensor([0.1, 0.45, 0.55, 0.9]).reshape(4, 1, 1, 1)
    bright = replace(data, x=levels.expand(4, 1, 8, 8).clone(), y=torch.tensor([0, 0, 0, 1]))
    darker = replace(bright, x=(bright.x - torch.tensor([0, 0, 0.1, 0.35]).reshape(4, 1, 1, 1)))
    model, settings = threshold(), {"attacks": "none", "certifiers": "lipschitz"}
    both = [evaluate(model, one, ThreatModel("L2", 0.5), **settings) for one in (bright, darker)]
    row = copies.differences(*both)
    assert [row[f"clean_{side}"] for side in ("originals", "copies", "differ")] == [3, 4, 1]
    assert row["certified_differ"] == abs(row["certified_originals"] - row["certified_copies"]) == 1
    same = copies.differences(both[0], both[0])
    assert not any(value for name, value in same.items() if name.endswith(("differ", "apart")))


def test_smoothed_networks_are_compared_in_l2_alone(copies):
    known = copies.networks()
    weights, smoothing = known["euler_resnet/noise-0.25~0.25"]
    assert (weights, smoothing.sigma) == ("euler_resnet/noise-0.25", 0.25)
    assert known["lipflow"] == ("lipflow", None)
    data = replace(digits(2), x=torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]))
    data = replace(data, y=torch.tensor([0, 1]))
    pairs = copies.Pairs(data, replace(data, x=1 - data.x), torch.zeros(2))
    few = replace(smoothing, n0=5, n=50)
    rows = list(copies.compare(threshold(), pairs, few, attacks="none"))
    assert [(row["norm"], row["eps"]) for row in rows] == [("L2", eps) for eps in copies.GRID["L2"]]
    for row in rows[:2]:
        # The mean of 64 pixels moves by 1/8 a unit of L2: both are certified, the copies are wrong.
        assert [row["clean_originals"], row["clean_copies"], row["clean_differ"]] == [2, 0, 2]
        assert [row["certified_originals"], row["certified_differ"]] == [2, 2]


@pytest.mark.slow
def test_certified_accuracies_in_colour_fall_with_eps(copies):
    colour = sys.modules["colour"]
    known = colour.weights_of(colour.COPIES)
    assert known["lipflow"].dataset == "cifar10_jpeg"
    # Plain colours: noise lies near the boundaries of all classes.
    x = torch.rand(20, 3, 1, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 32, 32)
    with torch.no_grad():
        y = load_model("lipflow", dataset="cifar10_jpeg")(x).argmax(dim=1)
    data = replace(digits(20), x=x, y=y, name="plain")
    row = colour.measure("lipflow", known["lipflow"], data)
    certified = [row[f"certified_{told}"] for told in colour.GRID]
    assert row["clean"] == 1
    assert certified == sorted(certified, reverse=True)
    assert certified[0] > certified[-1]
