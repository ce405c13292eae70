"""Integrators: their orders, what they keep, and bounds that no measured slope exceeds."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.flows import (
    Autonomous,
    ConvGradientStep,
    ConvPotential,
    Flow,
    FluxField,
    HamiltonianStep,
    NaiveStep,
    NonautonomousConv,
    ShearStep,
    ShiftedRotation,
    SphereStep,
    SwitchingPair,
    TransportStep,
    UnitNormConv,
    lipschitz_bound,
)
from robustbench_dyn.flows.activations import ACTIVATIONS, find_activation
from robustbench_dyn.flows.fields import legendre
from robustbench_dyn.flows.integrators import METHODS
from robustbench_dyn.properties.jacobians import operator_norms


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def images(n=4, channels=6, size=4):
    return torch.rand(n, channels, size, size, dtype=torch.float64)


class Rotation(nn.Module):
    """x' = (1 + t) J x in the plane: at t = 1 everything has turned by 3/2."""

    def forward(self, t, x):
        return (1 + t) * torch.stack([-x[:, 1], x[:, 0]], dim=1)


def turned(x, angle):
    c, s = math.cos(angle), math.sin(angle)
    return x @ torch.tensor([[c, s], [-s, c]], dtype=x.dtype)


@pytest.mark.parametrize("method", METHODS)
def test_halving_the_step_divides_the_error_by_two_to_the_order(method):
    x = torch.randn(3, 2, dtype=torch.float64)
    flow, exact = Flow(Rotation(), method=method, n_steps=20), turned(x, 1.5)
    errors = [float((flow.refined(k)(x) - exact).norm()) for k in (1, 2, 4)]
    for coarse, fine in pairwise(errors):
        # The next term of the expansion is of relative size h.
        assert math.log2(coarse / fine) == pytest.approx(flow.order, abs=0.15)


def test_the_implicit_midpoint_rule_keeps_the_norm_and_euler_does_not():
    x = torch.randn(3, 2, dtype=torch.float64)
    drift = {
        method: float((Flow(Rotation(), method=method, n_steps=10)(x).norm() - x.norm()).abs())
        for method in ("implicit_midpoint", "euler")
    }
    # What twelve fixed-point iterations with factor h L / 2 <= 0.1 leave.
    assert drift["implicit_midpoint"] < 1e-11
    assert drift["euler"] > 1e-2


def test_a_trajectory_ends_where_the_flow_does():
    flow = Flow(Rotation(), method="rk4", n_steps=5)
    x = torch.randn(3, 2, dtype=torch.float64)
    states = list(flow.trajectory(x))
    assert len(states) == 5
    assert torch.equal(states[-1], flow(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": "leapfrog"}, "method='leapfrog' is unknown"), ({"n_steps": 0}, "at least 1")],
)
def test_what_an_integrator_cannot_do_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        Flow(Rotation(), **options)


def test_no_bound_is_claimed_of_an_implicit_method():
    with pytest.raises(CertificateError, match="implicit_midpoint"):
        lipschitz_bound(Flow(Autonomous(nn.Linear(2, 2)), method="implicit_midpoint"))


def test_legendre_polynomials_are_orthogonal_and_at_most_one():
    points, weights = map(torch.tensor, _gauss())
    values = torch.tensor([legendre(float(s), 5) for s in points])
    gram = (values * weights[:, None]).T @ values
    assert torch.allclose(gram, torch.diag(2 / (2 * torch.arange(5.0) + 1)), atol=1e-6)
    assert all(abs(v) <= 1 for s in torch.linspace(-1, 1, 21) for v in legendre(float(s), 6))


def _gauss():
    points, weights = np.polynomial.legendre.leggauss(8)
    return points.astype("float32"), weights.astype("float32")


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_an_activation_is_the_slope_of_its_primitive_and_keeps_its_range(name):
    activation = find_activation(name)
    x = torch.linspace(-3, 3, 200, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation.primitive(x).sum(), x)
    assert torch.allclose(slope, activation.function(x), atol=1e-12)
    (second,) = torch.autograd.grad(activation.function(x).sum(), x)
    assert bool((second >= activation.lowest_slope - 1e-12).all())
    assert bool((second <= activation.highest_slope + 1e-12).all())


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="activation='gelu' is unknown"):
        find_activation("gelu")


STEPS = [
    lambda: Flow(NonautonomousConv(6), n_steps=3),
    lambda: Flow(NonautonomousConv(6), method="rk4", n_steps=2),
    lambda: Flow(Autonomous(nn.Conv2d(6, 6, 3, padding=1)), method="heun", n_steps=2),
    lambda: Flow(FluxField(6, 8), method="heun", n_steps=2),
    lambda: ConvPotential(6, 9),
    lambda: ConvPotential(6, 9, activation="sin"),
    lambda: ConvGradientStep(6, 9, activation="tanh", n_steps=2),
    lambda: ConvGradientStep(6, 9, activation="sin", n_steps=2),
    lambda: HamiltonianStep(6, 8),
    lambda: HamiltonianStep(6, 8, symmetric=True),
    lambda: ShearStep(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)),
    lambda: TransportStep(6, max_entry=1.0),
    lambda: nn.Sequential(nn.Flatten(), SphereStep(96, 5, max_norm=96**0.5)),
    lambda: SwitchingPair(6),
    lambda: SwitchingPair(6, learned=False),
    lambda: NaiveStep(6),
    lambda: UnitNormConv(6, 4),
]


@pytest.mark.parametrize("k", range(len(STEPS)))
def test_no_slope_that_is_found_exceeds_a_bound(k):
    step = STEPS[k]().double().requires_grad_(False)
    for scale in (1.0, 3.0):
        for parameter in step.parameters():
            # Only weights that no constraint binds are made larger.
            if not isinstance(step, SwitchingPair):
                parameter.mul_(scale)
        steepest = float(operator_norms(step, images()).max())
        bound = lipschitz_bound(step)
        assert steepest <= bound * (1 + 1e-12)
        assert bound < math.inf


def test_a_pair_of_switching_steps_is_nonexpansive_although_one_of_them_grows():
    pair = SwitchingPair(6).double().requires_grad_(False)
    expansive, contractive = pair.bounds()
    assert expansive > 1.1
    assert contractive < 1
    assert lipschitz_bound(pair) <= 1 + 1e-5
    with torch.no_grad():
        pair.share_logits.fill_(20.0)
    # However far training goes, the product stays where it may be.
    assert lipschitz_bound(pair) <= 1 + 1e-5


@pytest.mark.parametrize("steps", [(0.3, 0.5), (1.5, 0.1), (0.0, 0.1)])
def test_switching_steps_that_break_the_constraint_are_refused(steps):
    with pytest.raises(ValueError, match="break"):
        SwitchingPair(6, contractive=steps[0], expansive=steps[1])


def test_a_shifted_rotation_is_orthogonal_and_its_adjoint_is_its_inverse():
    rotation = ShiftedRotation(6).double()
    x = images()
    assert torch.allclose(rotation.adjoint(rotation(x)), x, atol=1e-6)
    assert torch.allclose(rotation(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-6)
    z = images()
    assert torch.allclose((rotation(x) * z).sum(), (x * rotation.adjoint(z)).sum())


def test_what_training_bends_is_retracted():
    rotation = ShiftedRotation(6)
    with torch.no_grad():
        rotation.weight.add_(0.05 * torch.randn(6, 6))
    assert rotation.defect() > 0.05
    rotation.retract()
    assert rotation.defect() < 1e-5
