"""Intermediate bounds contain the values of every layer as float32 computes them."""

import pytest
import torch
from oracles.samples import normal
from torch import nn

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
