"""Intermediate bounds contain the values of every layer as float32 computes them."""

import pytest
import torch
from oracles.samples import normal
from oracles.skips import deep_sorting_network
from torch import nn

from robustbench_dyn.certification.bounds import affine_prefixes, intermediate, intervals
from robustbench_dyn.certification.bounds.alpha_crown import optimised_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    intermediate_bounds,
    interval_bounds,
    relaxation_state,
)
from robustbench_dyn.threat_models import ThreatModel

INPUTS, HIDDEN = 6, 24
# Points x +- eps are numbers of float32.
EPS = 2.0**-6


def cancelling_network():
    """Return a network of float32 whose values are sums of large terms that cancel.

    All neurons of its first layer are active and far from 0; those of the second are close to it.
    """
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(INPUTS, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 2),
    )
    model[1].weight.data = normal(HIDDEN, INPUTS, seed=1).float()
    model[1].bias.data.fill_(1000.0)
    model[3].weight.data = normal(HIDDEN, HIDDEN, seed=2).float()
    middle = model[:3](torch.full((1, INPUTS), 0.5))[0].double()
    model[3].bias.data = -(model[3].weight.double() @ middle).float()
    return model.requires_grad_(False)


def extreme_points(model, layer):
    """Return the corner of the ball where each neuron of a layer is smallest, (neurons, inputs)."""
    slopes = model[1].weight.double()
    if layer == 3:
        slopes = model[3].weight.double() @ slopes
    return 0.5 - EPS * slopes.sign()


METHODS = {
    "interval": interval_bounds,
    "back-substitution": lambda state, ball: intermediate_bounds(state, ball)[0],
    "alpha-CROWN": lambda state, ball: intermediate_bounds(state, ball, n_iterations=3)[0],
}


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_rounding_is_subtracted_in_every_layer(method, layer):
    model = cancelling_network()
    state = relaxation_state(model, (INPUTS,))
    # Searched in float64, so that no other rounding is subtracted than that of the model; without
    # affine prefixes, too: the first layer is then bounded by intervals.
    state = state._replace(fast=state.exact)
    bare = state._replace(affine_prefixes={})
    points = extreme_points(model, layer)
    computed = model[: layer + 1](points.float()).double().diagonal()
    exact = model.double()[: layer + 1](points).diagonal()
    (k,) = [k for k in state.exact.preactivations if state.exact.is_affine(k) == (layer == 1)]
    ball = Ball(torch.full((1, INPUTS), 0.5), ThreatModel("Linf", EPS))
    for network in (state, bare):
        bounds = METHODS[method](network, ball)
        assert (bounds.lower[k][0] <= computed).all()
        if method != "interval":
            # They are tight: the difference to the exact minimum is the worst case of rounding.
            assert (bounds.lower[k][0] >= exact - 0.1).all()
    # The negative control: exact minima lie above what float32 computes.
    assert (exact > computed).sum() > 5


class WithoutRounding:
    """torch, to which every dtype is as fine as float64."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def finfo(self, dtype):
        return torch.finfo(torch.float64)


def escapes(state, ball):
    """Count the ends and errors of float64 intervals that those of float32 do not cover."""
    exact, fast = interval_bounds(state, ball), interval_bounds(state, ball, fast=True)
    assert fast.lower[-1].dtype is torch.float32
    found = 0
    for k in range(1, len(exact.lower)):
        found += int((fast.lower[k] > exact.lower[k]).sum())
        found += int((fast.upper[k] < exact.upper[k]).sum())
        found += int((fast.errors[k] < exact.errors[k] * (1 - 1e-9)).sum())
    return found


@pytest.mark.parametrize("prefixes", [True, False])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@torch.no_grad()
def test_intervals_in_float32_contain_those_in_float64(norm, prefixes, monkeypatch):
    state = relaxation_state(cancelling_network(), (INPUTS,))
    if not prefixes:
        state = state._replace(affine_prefixes={}, fast_prefixes={})
    x = normal(40, INPUTS, seed=5).abs().clamp(0, 1)
    ball = Ball(x, ThreatModel(norm, EPS))
    assert escapes(state, ball) == 0
    monkeypatch.setattr(intervals, "torch", WithoutRounding())
    monkeypatch.setattr(affine_prefixes, "torch", WithoutRounding())
    blind = relaxation_state(cancelling_network(), (INPUTS,))
    if not prefixes:
        blind = blind._replace(affine_prefixes={}, fast_prefixes={})
    assert escapes(blind, ball) > 0


def test_a_box_in_float32_contains_that_in_float64():
    x = normal(40, INPUTS, seed=5).abs().clamp(0, 1)
    ball = Ball(x, ThreatModel("Linf", 0.01))
    (lower, upper), (low, high) = ball.box(), ball.box(torch.float32)
    assert (low.double() <= lower).all()
    assert (high.double() >= upper).all()
    # The negative control: the nearest numbers of float32 lie on either side.
    assert (lower.float().double() > lower).any()
    assert (upper.float().double() < upper).any()


@torch.no_grad()
def test_sums_are_tightened_where_intervals_grow_along_skip_connections(monkeypatch):
    model = deep_sorting_network(6)
    state = relaxation_state(model, (2, 1, 1))
    x = torch.full((1, 2, 1, 1), 0.5)
    ball = Ball(x, ThreatModel("Linf", 0.1))
    (last,) = state.exact.sums[-1:]
    found, _ = intermediate_bounds(state, ball)
    draw = torch.Generator().manual_seed(0)
    points = x + 0.1 * (2 * torch.rand(500, 2, 1, 1, generator=draw) - 1)
    values = state.exact.outputs(points.double())[last]
    assert bool((found.lower[last] <= values).all() and (values <= found.upper[last]).all())
    width = float((found.upper[last] - found.lower[last]).max())
    monkeypatch.setattr(intermediate, "_GROWN", torch.inf)
    loose, _ = intermediate_bounds(state, ball)
    assert float((loose.upper[last] - loose.lower[last]).max()) > 50 * width


@torch.no_grad()
def test_whether_sums_are_tightened_depends_on_no_other_example():
    state = relaxation_state(deep_sorting_network(6), (2, 1, 1))
    x = torch.tensor([[0.5, 0.5], [0.2, 0.9]]).view(2, 2, 1, 1)
    together, _ = intermediate_bounds(state, Ball(x, ThreatModel("Linf", 0.1)))
    for k in range(2):
        alone, _ = intermediate_bounds(state, Ball(x[k : k + 1], ThreatModel("Linf", 0.1)))
        for one, both in zip(alone.lower, together.lower, strict=True):
            torch.testing.assert_close(one[0], both[k], atol=1e-5, rtol=1e-4)


def deep(activation):
    """Return a network of three layers of 24 neurons, with weights of float32."""
    layers = [nn.Flatten(), nn.Linear(INPUTS, HIDDEN), activation]
    layers += [nn.Linear(HIDDEN, HIDDEN), activation, nn.Linear(HIDDEN, HIDDEN), activation]
    model = nn.Sequential(*layers, nn.Linear(HIDDEN, 2))
    for k, layer in enumerate(part for part in model if isinstance(part, nn.Linear)):
        layer.weight.data = normal(*layer.weight.shape, seed=k).float() / 4
        layer.bias.data.zero_()
    return model.requires_grad_(False)


def rows_optimised(model, x, eps, monkeypatch, steps=10):
    """Return how many rows of a hidden layer have slopes of their own, and the bounds."""
    rows = []

    def counted(*args, **kwargs):
        rows.append(len(args[5]))
        return optimised_bounds(*args, **kwargs)

    monkeypatch.setattr(intermediate, "optimised_bounds", counted)
    state = relaxation_state(model, (INPUTS,))
    found, _ = intermediate_bounds(state, Ball(x, ThreatModel("Linf", eps)), n_iterations=steps)
    return sum(rows), found


@torch.no_grad()
def test_slopes_are_optimised_for_a_few_neurons_where_that_gains_nothing(monkeypatch):
    x = normal(1, INPUTS, seed=7).abs().clamp(0, 1)
    # Lines that touch a smooth curve over a narrow interval are as good as any. Two layers are
    # behind others, and each neuron has two bounds.
    given_back = []
    monkeypatch.setattr(
        intermediate.Allotment,
        "give_back",
        lambda _self, _k, unspent: given_back.append(int(unspent.sum())),
    )
    few, _ = rows_optimised(deep(nn.Tanh()), x, 2.0**-8, monkeypatch)
    assert 0 < few <= 2 * 2 * intermediate._FIRST
    assert given_back == [HIDDEN - intermediate._FIRST] * 2
    all_, _ = rows_optimised(deep(nn.ReLU()), x, 0.25, monkeypatch)
    assert all_ > 2 * 2 * intermediate._FIRST


@torch.no_grad()
def test_whether_slopes_pay_depends_on_no_other_example(monkeypatch):
    # In the layer behind the first, slopes narrow no bound of one of them by a hundredth.
    x = torch.rand(12, INPUTS, generator=torch.Generator().manual_seed(0))[[5, 1]]
    together, both = rows_optimised(deep(nn.ReLU()), x, 0.1, monkeypatch)
    alone = 0
    for k in range(2):
        n, one = rows_optimised(deep(nn.ReLU()), x[k : k + 1], 0.1, monkeypatch)
        alone += n
        for of_one, of_both in zip(one.lower, both.lower, strict=True):
            torch.testing.assert_close(of_one[0], of_both[k], atol=1e-5, rtol=1e-4)
    assert together == alone > 0
