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
    orthogonal,
)
from robustbench_dyn.flows.activations import ACTIVATIONS, find_activation
from robustbench_dyn.flows.fields import legendre
from robustbench_dyn.flows.integrators import METHODS
from robustbench_dyn.models.loading import build_model, discover
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


def test_the_midpoint_rule_keeps_the_norm_and_euler_does_not():
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
def test_an_activation_is_the_derivative_of_its_primitive(name):
    activation = find_activation(name)
    x = torch.linspace(-3, 3, 200, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation.primitive(x).sum(), x)
    assert torch.allclose(slope, activation.function(x), atol=1e-12)
    (second,) = torch.autograd.grad(activation.function(x).sum(), x)
    assert bool((second >= activation.min_slope - 1e-12).all())
    assert bool((second <= activation.max_slope + 1e-12).all())


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


def test_a_pair_of_switching_steps_is_nonexpansive():
    pair = SwitchingPair(6).double().requires_grad_(False)
    expansive, contractive = pair.bounds()
    assert expansive > 1.1
    assert contractive < 1
    assert lipschitz_bound(pair) <= 1
    # However far training goes, the product stays where it may be.
    for end in (-20.0, 20.0):
        with torch.no_grad():
            pair.share_logits.fill_(end)
        assert lipschitz_bound(pair) <= 1


def naive_step(*, inner, outer, activation="relu", channels=1):
    """Return a step of 1 x 1 or 3 x 3 convolutions with these kernels, which have unit norm."""
    step = NaiveStep(channels, kernel_size=inner.shape[-1], activation=activation)
    step.inner.weight.data, step.outer.weight.data = inner.float(), outer.float()
    return step.double().eval().requires_grad_(False)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("sign", "expected"), [(1.0, 1.0), (-1.0, 0.5)])
def test_a_naive_step_is_bounded_by_where_its_terms_point(sign, expected, activation):
    one = torch.ones(1, 1, 1, 1)
    step = naive_step(inner=one, outer=sign * one, activation=activation)
    # The Jacobian is (1 + sign d) / 2 with d in [0, 1], and both ends are reached.
    assert lipschitz_bound(step) == pytest.approx(expected, abs=1e-6)
    x = torch.linspace(-9, 9, 37, dtype=torch.float64).reshape(-1, 1, 1, 1)
    steepest = float(operator_norms(step, x).max())
    assert steepest == pytest.approx(expected, abs=1e-5)
    # Negative control: a bound that forgets how far slopes are from their middle, 1/2.
    assert steepest > (1 + sign / 2) / 2 + 0.2


def test_slopes_of_both_signs_leave_the_triangle_inequality():
    one = torch.ones(1, 1, 1, 1)
    step = naive_step(inner=one, outer=-one, activation="sin")
    assert lipschitz_bound(step) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_a_naive_step_stays_below_its_bound_at_image_borders(seed):
    draw = torch.Generator().manual_seed(seed)
    kernel = torch.randn(2, 4, 4, 3, 3, generator=draw)
    outer = -kernel[0].transpose(0, 1).flip(2, 3) if seed % 2 else kernel[1]
    step = naive_step(inner=kernel[0], outer=outer, channels=4)
    step.inner.bias.data = torch.randn(4, generator=draw).double()
    bound, steepest = lipschitz_bound(step), 0.0
    # All slopes 0 or 1, and mixed ones.
    for shift in (-30.0, 0.0, 30.0):
        step.inner.bias.data += shift
        x = torch.randn(8, 4, 5, 5, generator=draw, dtype=torch.float64)
        steepest = max(steepest, float(operator_norms(step, x).max()))
        step.inner.bias.data -= shift
    assert steepest <= bound * (1 + 1e-12)
    product = step.inner.lipschitz_bound() * step.outer.lipschitz_bound()
    assert bound < (1 + product) / 2


@pytest.mark.parametrize("flexible", [True, False])
@pytest.mark.parametrize("input_shape", [(1, 28, 28), (3, 32, 32), (2, 1, 1)])
def test_the_bounds_of_expansive_contractive_multiply_to_1(flexible, input_shape):
    architecture = discover().get("expansive_contractive")
    options = {"channels": 12, "depth": 3, "flexible": flexible}
    model = build_model(architecture, input_shape=input_shape, n_classes=10, options=options)
    product = 1.0
    for layer in model.features:
        product *= lipschitz_bound(layer)
    assert product <= 1
    rows = model.head.value().double().norm(dim=1)
    assert bool((rows <= 1 + 1e-6).all())
    # Negative control: weights that left the manifold break the product.
    with torch.no_grad():
        for parameter in model.features.parameters():
            parameter.mul_(1.1)
    assert lipschitz_bound(model.features) > 1


@pytest.mark.parametrize("steps", [(0.3, 0.5), (1.5, 0.1), (0.0, 0.1)])
def test_switching_steps_that_break_the_constraint_are_refused(steps):
    with pytest.raises(ValueError, match="break"):
        SwitchingPair(6, contractive=steps[0], expansive=steps[1])


def reach(step):
    """Return how many pixels away an input may lie that moves the output at a pixel."""
    x = torch.randn(1, 6, 11, 11, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(step(x)[0, :, 5, 5].sum(), x)
    rows, columns = gradient[0].abs().sum(dim=0).nonzero().unbind(dim=1)
    return int(torch.maximum((rows - 5).abs(), (columns - 5).abs()).max())


class ShiftedLast(orthogonal.Rotation):
    """S Q in place of Q S: the shift undoes itself in A^T sigma(A x + b)."""

    def step(self, x, h, bias, sigma):
        def shift(z, sign):
            return torch.stack([c.roll(sign * k, dims=2) for k, c in enumerate(z.unbind(1))], 1)

        force = sigma(shift(self(x), 1) + bias[:, None, None])
        return x + h * self.adjoint(shift(force, -1))


def test_each_pair_of_switching_steps_widens_the_receptive_field():
    pair = SwitchingPair(6).double()
    assert reach(pair) >= 1
    assert reach(nn.Sequential(pair, SwitchingPair(6).double())) > reach(pair)
    blind = SwitchingPair(6).double()
    blind.expansion = ShiftedLast(6).double()
    assert reach(blind) == 0


def test_equal_shifts_in_turn_widen_no_receptive_field():
    once = SwitchingPair(6).double()
    once.contraction = ShiftedRotation(6).double()
    twice = SwitchingPair(6).double()
    twice.contraction = ShiftedRotation(6).double()
    assert reach(nn.Sequential(once, twice)) == reach(once)


def test_the_adjoint_of_a_shifted_rotation_is_its_inverse():
    rotation = ShiftedRotation(6).double()
    x = images()
    assert torch.allclose(rotation.adjoint(rotation(x)), x, atol=1e-6)
    assert torch.allclose(rotation(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-6)
    z = images()
    assert torch.allclose((rotation(x) * z).sum(), (x * rotation.adjoint(z)).sum())


def test_weights_off_the_manifold_are_retracted():
    rotation = ShiftedRotation(6)
    with torch.no_grad():
        rotation.weight.add_(0.05 * torch.randn(6, 6))
    assert rotation.defect() > 0.05
    rotation.retract()
    assert rotation.defect() < 1e-5
