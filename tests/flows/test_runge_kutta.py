"""Runge-Kutta steps of nonexpansive fields: radii of circle contractivity, and exact Jacobians."""

import copy
import itertools

import pytest
import torch

from robustbench_dyn.flows import (
    ConvRungeKuttaStep,
    DenseRungeKuttaStep,
    circle_radius,
    lipschitz_bound,
)
from robustbench_dyn.flows.integrators import EXPLICIT, Tableau
from robustbench_dyn.properties import Nonexpansive, check_properties

# The explicit midpoint rule.
WITH_A_ZERO = Tableau(2, ((), (0.5,)), (0.0, 1.0))


def growth(tableau, slopes):
    """Return |x+ / x| of one step of length 1 of x' = -d x with another slope d in each stage."""
    stages = []
    for row, d in zip(tableau.a, slopes, strict=True):
        stages.append(-d * (1 + sum(a * k for a, k in zip(row, stages, strict=True))))
    return abs(1 + sum(b * k for b, k in zip(tableau.b, stages, strict=True)))


def largest_growth(tableau, h):
    """Search the slopes of the stages in a disk, |d - h / 2| <= h / 2, for the largest growth."""
    circle = [h / 2 * (1 + complex(*p)) for p in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.6, 0.8))]
    return max(
        growth(tableau, slopes) for slopes in itertools.product(circle, repeat=len(tableau.b))
    )


@pytest.mark.parametrize(("method", "radius"), [("euler", 1), ("heun", 1), ("rk4", 1)])
def test_the_radius_of_circle_contractivity_is_the_known_one(method, radius):
    assert circle_radius(EXPLICIT[method]) == pytest.approx(radius, rel=1e-9)
    assert circle_radius(EXPLICIT[method]) <= radius


@pytest.mark.parametrize(
    ("method", "beyond"), [("euler", 1.1), ("heun", 1.1), ("rk4", 1.3), ("rk4_38", 3.1)]
)
def test_steps_within_the_radius_contract_and_longer_ones_need_not(method, beyond):
    tableau = EXPLICIT[method]
    r = circle_radius(tableau)
    assert largest_growth(tableau, 2 * r) <= 1 + 1e-9
    assert largest_growth(tableau, 2 * beyond * r) > 1


def test_a_method_with_a_weight_of_zero_has_no_radius():
    assert circle_radius(WITH_A_ZERO) == 0.0


def trained(kind, *shape, **options):
    """Return a step in float64 with weights away from their start, and nearly the longest step."""
    torch.manual_seed(0)
    step = kind(*shape, **options).double()
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        step.step_logit.fill_(20.0)
    return step.requires_grad_(False)


def steepest(step, x):
    """Return the largest singular value of the step's Jacobian at each x."""
    n = x[0].numel()
    return max(
        float(torch.linalg.matrix_norm(torch.func.jacrev(step)(one[None]).reshape(n, n), 2))
        for one in x
    )


CASES = [
    (DenseRungeKuttaStep, (6, 6), (6,)),
    (ConvRungeKuttaStep, (2, 3), (2, 3, 3)),
]


@pytest.mark.parametrize("method", EXPLICIT)
@pytest.mark.parametrize(("kind", "shape", "of_state"), CASES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_longest_step_does_not_expand(kind, shape, of_state, method, activation):
    step = trained(kind, *shape, method=method, activation=activation)
    x = 2 * torch.randn(8, *of_state, dtype=torch.float64)
    assert lipschitz_bound(step) == 1.0
    assert steepest(step, x) <= 1 + 1e-12


class TooLong(DenseRungeKuttaStep):
    """Its steps are 1.5 times as long as the radius allows."""

    def compute(self):
        return 1.5**0.5 * super().compute()


@pytest.mark.parametrize("method", EXPLICIT)
def test_a_step_beyond_the_radius_is_found_out(method):
    step = trained(TooLong, 6, 6, method=method, activation="tanh")
    step.bias.zero_()
    found = list(check_properties(step, [Nonexpansive()], 0.01 * torch.randn(4, 6), search=False))
    # The radius of the 3/8 rule is about stages that no gradient field has: it contracts further.
    assert any(not f.holds for f in found) == (method != "rk4_38")
    assert lipschitz_bound(step) > 1.1
    x = torch.randn(8, 6, dtype=torch.float64)
    assert steepest(step, x) <= lipschitz_bound(step)


def test_a_smaller_step_of_heun_follows_the_flow_to_order_two():
    def after(n_steps):
        step = trained(DenseRungeKuttaStep, 6, 6, method="heun", activation="tanh", n_steps=n_steps)
        share = torch.tensor(0.8 / n_steps, dtype=torch.float64)
        step.step_logit.fill_(float(torch.logit(share)))
        return step(torch.ones(1, 6, dtype=torch.float64))

    coarse, middle, fine = (after(n) for n in (16, 32, 64))
    assert float((coarse - middle).norm() / (middle - fine).norm()) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(("kind", "shape", "of_state"), CASES)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh"])
def test_a_step_of_euler_descends_the_energy(kind, shape, of_state, activation):
    step = trained(kind, *shape, method="euler", activation=activation)
    x = torch.randn(3, *of_state, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(step.energy(x).sum(), x)
    torch.testing.assert_close(step(x), x - gradient)


def test_the_frozen_step_computes_what_the_trainable_one_does():
    step = trained(ConvRungeKuttaStep, 2, 3)
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    assert torch.equal(step(x), copy.deepcopy(step).requires_grad_(True)(x))


@pytest.mark.parametrize("options", [{"method": "midpoint"}, {"activation": "sin"}])
def test_unknown_methods_and_falling_activations_are_refused(options):
    with pytest.raises(ValueError, match=r"method|increase"):
        DenseRungeKuttaStep(4, 4, **options)
