"""The first pass, which says where a relaxation is worth its price, and what a budget pays for."""

import pytest
import torch
from oracles.samples import normal, uniform
from torch import nn

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.bounds.allotment import Allotment, relaxation_gap
from robustbench_dyn.certification.bounds.back_substitution import objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.first_pass import estimated_bounds
from robustbench_dyn.certification.bounds.intermediate import (
    intermediate_bounds,
    interval_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.certifiers.interval import Interval
from robustbench_dyn.certification.certifiers.linear_relaxation import LinearRelaxation
from robustbench_dyn.certification.proofs import linear_relaxation
from robustbench_dyn.threat_models import ThreatModel

SHAPE, WIDTH, BUDGET = (1, 6, 6), 40, 5_000_000_000


def deep_network(activation=nn.ReLU, depth=9):
    """Return a dense network whose intervals grow several times in each layer."""
    layers, n = [nn.Flatten()], 36
    for k in range(depth):
        linear = nn.Linear(n, WIDTH)
        linear.weight.data = normal(WIDTH, n, seed=k).float() * (2 / n) ** 0.5
        linear.bias.data.zero_()
        layers += [linear, activation()]
        n = WIDTH
    head = nn.Linear(n, 4)
    head.weight.data, head.bias.data = normal(4, n, seed=99).float() / n**0.5, torch.zeros(4)
    return nn.Sequential(*layers, head).requires_grad_(False).eval()


def examples(model, n=12):
    x = uniform(n, *SHAPE, seed=1).float()
    logits = model(x)
    return x, logits, logits.argmax(dim=1)


def closest(model, x):
    """Return the margin of the runner-up at x, and its objective."""
    top = model(x).topk(2, dim=1)
    units = torch.eye(4).double()
    return (top.values[:, 0] - top.values[:, 1]).double(), units[top.indices[:, 0]] - units[
        top.indices[:, 1]
    ]


@torch.no_grad()
def crown(state, ball, coefficients):
    """Return the CROWN bounds that the first pass estimates."""
    bounds, lines = intermediate_bounds(state, ball, budget=BUDGET)
    owners = torch.arange(len(coefficients))
    return objective_bounds(
        state.exact, bounds, ball, coefficients, owners, linear_bounds=lines
    ).value


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.003), ("L2", 0.02)])
@torch.no_grad()
def test_the_estimate_is_near_the_bound_of_all_neurons(activation, norm, eps):
    model = deep_network(activation, depth=6)
    x, _, _ = examples(model)
    margins, coefficients = closest(model, x)
    state, ball = relaxation_state(model, SHAPE), Ball(x, ThreatModel(norm, eps))
    bounds = interval_bounds(state, ball)
    estimate = estimated_bounds(state, ball, bounds, x, coefficients, budget=BUDGET)
    bound = crown(state, ball, coefficients)
    by_intervals = objective_bounds(
        state.exact, bounds, ball, coefficients, torch.arange(len(x)), linear_bounds={}
    ).value
    lost = (margins - bound).clamp_min(1e-9)
    # The negative control: intervals lose many times as much.
    assert ((margins - by_intervals) / lost).median() > 10
    assert 0.5 < ((margins - estimate) / lost).median() < 2


@torch.no_grad()
def test_a_deep_network_is_not_given_up_for_its_intervals(monkeypatch):
    model = deep_network()
    x, logits, y = examples(model)
    threat_model = ThreatModel("Linf", 0.001)
    by_intervals = Interval().prepared(model, SHAPE).prove(x, logits, y, threat_model)
    margins, _ = closest(model, x)
    assert (by_intervals.margins / margins).median() < -100
    prepared = LinearRelaxation().prepared(model, SHAPE)
    proof = prepared.prove(x, logits, y, threat_model)
    assert (radii(proof) == 0.001).sum() >= 6
    # The negative control: by intervals alone, nothing is within reach.
    monkeypatch.setattr(
        linear_relaxation,
        "estimated_bounds",
        lambda state, ball, bounds, x, *given, **options: x.new_full((len(x),), -torch.inf),
    )
    assert not (radii(prepared.prove(x, logits, y, threat_model)) > 0).any()


@pytest.mark.parametrize(("eps", "pursued"), [(0.05, False), (0.001, True)])
@torch.no_grad()
def test_what_is_out_of_reach_is_not_relaxed_in_full(eps, pursued, monkeypatch):
    model, relaxed = deep_network(), []
    in_full = linear_relaxation.intermediate_bounds
    monkeypatch.setattr(
        linear_relaxation,
        "intermediate_bounds",
        lambda state, ball, **options: relaxed.append(ball) or in_full(state, ball, **options),
    )
    x, logits, y = examples(model)
    proof = LinearRelaxation().prepared(model, SHAPE).prove(x, logits, y, ThreatModel("Linf", eps))
    assert bool(relaxed) == pursued
    # It is not rounding that prevents a proof.
    assert not proof.within_rounding.any()


@torch.no_grad()
def test_an_estimate_does_not_depend_on_the_batch():
    model = deep_network()
    x, _, _ = examples(model)
    _, coefficients = closest(model, x)
    state, threat_model = relaxation_state(model, SHAPE), ThreatModel("Linf", 0.002)

    def estimate(rows):
        ball = Ball(x[rows], threat_model)
        bounds = interval_bounds(state, ball)
        return estimated_bounds(state, ball, bounds, x[rows], coefficients[rows], budget=BUDGET)

    alone = torch.cat([estimate(slice(k, k + 1)) for k in range(len(x))])
    torch.testing.assert_close(estimate(slice(None)), alone, rtol=1e-4, atol=1e-4)


# Budgets


def allotment(n_rows):
    """Return a budget of n_rows rows for each of the last two layers of a network, and those."""
    network = relaxation_state(deep_network(depth=3), SHAPE).exact
    layers = network.preactivations[1:]
    # Rows of the first of them cost less: what it takes is counted in its own price.
    budget = 2 * n_rows * 2 * network.n_multiplications(layers[0])
    return Allotment(network, layers, budget, 2), layers


def test_a_budget_pays_for_the_widest_neurons_first():
    spent, (first, _) = allotment(5)
    gap = torch.stack([torch.arange(40.0), torch.zeros(40)])
    gap[1, 7] = 1.0
    chosen = spent.widest(first, gap)
    assert chosen[0].nonzero().flatten().tolist() == [35, 36, 37, 38, 39]
    # Where there is nothing to gain, nothing is bounded.
    assert chosen[1].nonzero().flatten().tolist() == [7]


def test_what_one_layer_leaves_the_next_may_spend():
    gap = torch.rand(2, 40) + 0.1
    spent, (first, second) = allotment(10)
    spent.widest(first, torch.stack([gap[0], torch.zeros(40)]))
    n_rows = spent.widest(second, gap).sum(dim=1)
    # The second example has the whole budget left, the first one half of it.
    assert 0 < n_rows[0] < n_rows[1] <= 2 * (n_rows[0] + 1)


def test_what_is_given_back_the_next_may_spend():
    gap = torch.rand(2, 40) + 0.1
    spent, (first, second) = allotment(10)
    chosen = spent.widest(first, gap)
    chosen[1] = False
    spent.give_back(first, chosen)
    n_rows = spent.widest(second, gap).sum(dim=1)
    assert 0 < n_rows[1] < n_rows[0] <= 2 * (n_rows[1] + 1)


def test_the_gap_is_the_largest_of_all_activations():
    low, high = torch.tensor([-1.0, 1.0]), torch.tensor([2.0, 3.0])
    assert relaxation_gap([LeakyReLU(0.0), LeakyReLU(0.5)], low, high).tolist() == [2.0, 0.0]


# Intervals in float32


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@torch.no_grad()
def test_float32_intervals_decide_as_float64_ones(norm):
    model = deep_network(depth=2)
    x, logits, y = examples(model, n=40)
    state = Interval().prepare(model, SHAPE)
    in_float64 = state._replace(fast=state.exact, fast_prefixes=state.affine_prefixes)
    counts = []
    for scale in (0.25, 0.5, 1.0, 2.0):
        threat_model = ThreatModel(norm, scale * {"Linf": 2e-3, "L2": 1e-2, "L1": 2e-2}[norm])
        found = Interval().prove(state, x, logits, y, threat_model)
        expected = Interval().prove(in_float64, x, logits, y, threat_model)
        assert torch.equal(found.class_radii, expected.class_radii)
        assert torch.equal(found.within_rounding, expected.within_rounding)
        counts.append(int((radii(found) > 0).sum()))
    # Some are certified and some are not.
    assert counts[0] > counts[-1]
