"""Splitting by the signs of neurons: exact in L2, and never more than what is true."""

import numpy as np
import pytest
import torch
from enumeration import least_distance, tiny_network
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from robustbench_dyn import ThreatModel
from robustbench_dyn.certification import complete, radii, resolve_certifiers
from robustbench_dyn.certification.balls import Ball
from robustbench_dyn.certification.splitting import Parts, Splitting
from robustbench_dyn.certification.tightening import relaxed_bounds
from robustbench_dyn.flows import frozen
from robustbench_dyn.judging import judge
from robustbench_dyn.threat_models import project

SHAPE = (1, 1, 3)


def problem(seed, gain=1.0):
    model = tiny_network(seed, widths=(4, 3), gain=gain).requires_grad_(False)
    x = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(seed)).double()
    return model, x, model(x).argmax(dim=1)


def split(model, x, threat_model):
    state = complete.CERTIFIER.prepare(model, SHAPE)
    ball = Ball(x, threat_model)
    bounds, _ = relaxed_bounds(state.relaxed, ball)
    return Splitting(state.relaxed.exact, state.composition, bounds, ball)


@settings(max_examples=25, deadline=None, derandomize=True)
@example(seed=5278, gain=2.0)
@given(st.integers(0, 10_000), st.floats(0.3, 2.0))
def test_the_border_in_l2_is_known_from_both_sides(seed, gain):
    model, x, y = problem(seed, gain)
    exact = min(least_distance(model, x.flatten(), int(y), j) for j in {0, 1, 2} - {int(y)})
    assume(1e-3 < exact < 1)
    with frozen(model):
        (prepared,) = resolve_certifiers("complete", model, SHAPE, "L2")
        inside, outside = ThreatModel("L2", 0.99 * exact), ThreatModel("L2", 1.01 * exact)
        assert float(radii(prepared.prove(x, model(x), y, inside))[0]) >= inside.eps
        found = prepared.prove(x, model(x), y, outside)
        assert not float(radii(found)[0]) >= outside.eps
        assert judge(model, found.candidates, x, y, outside).fooled.all()


def overshoot(seed, multipliers):
    """Return how far bounds lie above the values at points of their parts, at most."""
    model, x, y = problem(seed)
    threat_model = ThreatModel("L2", 0.4)
    network = split(model, x, threat_model)
    draw = torch.Generator().manual_seed(seed)
    moved = x + 0.4 * torch.randn(500, *SHAPE, generator=draw).double()
    points = project(moved, x.expand_as(moved), threat_model)
    values = network.network.values(points)
    arguments = torch.cat([
        values[network.network.nodes[k - 1].inputs[0]].flatten(1)
        for k in network.network.activations
    ], dim=1)  # fmt: skip
    neurons = torch.rand(500, arguments.shape[1], generator=draw) < 0.5
    signs = torch.where(arguments >= 0, 1.0, -1.0).where(neurons, 0.0)
    shape, above = signs.shape, -np.inf
    for rival in {0, 1, 2} - {int(y)}:
        objective = torch.zeros(3, dtype=torch.float64)
        objective[y], objective[rival] = 1.0, -1.0
        slopes = torch.rand(shape, generator=draw).double()
        parts = Parts(signs, slopes, multipliers(shape, draw).double())
        found = network.relaxation(parts, objective)
        bound = found.value - found.rounding
        above = max(above, float((bound - values[-1] @ objective).max()))
    return above


@pytest.mark.parametrize("seed", range(10))
def test_any_slopes_and_multipliers_bound_what_is_in_the_part(seed):
    assert overshoot(seed, lambda shape, draw: 3 * torch.rand(shape, generator=draw)) <= 0


def test_multipliers_of_the_wrong_sign_are_caught():
    def wrong(shape, draw):
        return -3 * torch.rand(shape, generator=draw)

    assert max(overshoot(seed, wrong) for seed in range(10)) > 0.01


def test_without_splits_it_comes_to_no_end_and_with_them_it_does(monkeypatch):
    # Negative control for the border: the relaxation alone does not know it.
    alone = 0
    for seed in range(12):
        model, x, y = problem(seed)
        exact = min(least_distance(model, x.flatten(), int(y), j) for j in {0, 1, 2} - {int(y)})
        network = split(model, x, ThreatModel("L2", 0.99 * min(exact, 1.0)))
        for rival in {0, 1, 2} - {int(y)}:
            row = np.zeros(3)
            row[int(y)], row[rival] = 1.0, -1.0
            assert network.prove_above(row, 1e-4, seconds=60).proved
            with monkeypatch.context() as patched:
                patched.setattr(Splitting, "_split", lambda _self, parts, _losses: parts)
                alone += not network.prove_above(row, 1e-4, seconds=0.2).proved
    assert alone > 0


def test_a_network_without_neurons_is_decided_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).double().requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    model[1].bias.copy_(torch.tensor([-0.3, 0.0]))
    x, y = torch.full((1, *SHAPE), 0.5).double(), torch.tensor([0])
    for eps, holds in ((0.19, True), (0.21, False)):
        threat_model = ThreatModel("L2", eps)
        (prepared,) = resolve_certifiers("complete", model, SHAPE, "L2")
        proof = prepared.prove(x, model(x), y, threat_model)
        assert (float(radii(proof)[0]) >= eps) == holds
        assert bool(judge(model, proof.candidates, x, y, threat_model).fooled) != holds


def test_out_of_time_nothing_is_proved():
    model, x, _ = problem(1)
    network = split(model, x, ThreatModel("L2", 0.1))
    answer = network.prove_above(np.array([1.0, -1.0, 0.0]), -1e9, seconds=-1.0)
    assert answer == (False, None)
