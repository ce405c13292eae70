"""Contractive Hamiltonian steps: exact Jacobians, energies, and steps with too little damping."""

import math

import pytest
import torch

from robustbench_dyn.flows import (
    ConvContractiveHamiltonianStep,
    DenseContractiveHamiltonianStep,
    lipschitz_bound,
)
from robustbench_dyn.properties import (
    EnergyDecreasing,
    LogarithmicNorm,
    Nonexpansive,
    check_properties,
)

CASES = [
    (DenseContractiveHamiltonianStep, (6, 6), (6,)),
    (ConvContractiveHamiltonianStep, (2, 3), (2, 3, 3)),
]
SETTINGS = [(0.05, 1.0), (0.3, 1.0), (0.6, 0.95), (0.85, 1.0)]


def trained(kind=DenseContractiveHamiltonianStep, shape=(6, 6), **options):
    """Return a step in float64 whose weights lie away from their start."""
    torch.manual_seed(0)
    step = kind(*shape, **options).double()
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return step.requires_grad_(False)


def jacobians(function, x):
    n = x[0].numel()
    return [torch.func.jacrev(function)(one[None]).reshape(n, n) for one in x]


@pytest.mark.parametrize(("kind", "shape", "of_state"), CASES)
@pytest.mark.parametrize(("angle", "bound"), SETTINGS)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_steps_are_as_lipschitz_as_asked_for_and_fields_contract(
    kind, shape, of_state, angle, bound, activation
):
    step = trained(kind, shape, angle=angle, bound=bound, activation=activation)
    x = 2 * torch.randn(8, *of_state, dtype=torch.float64)
    assert lipschitz_bound(step) == pytest.approx(bound, abs=1e-9)
    for jacobian in jacobians(step, x):
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= lipschitz_bound(step)
    for jacobian in jacobians(step.field, x):
        symmetric = (jacobian + jacobian.T) / 2
        assert float(torch.linalg.eigvalsh(symmetric)[-1]) <= bound - 1 + 1e-12
    found = check_properties(
        step, [EnergyDecreasing(), LogarithmicNorm(bound=bound - 1)], x, search=False
    )
    assert all(f.holds for f in found)


@pytest.mark.parametrize(("angle", "bound"), SETTINGS)
def test_the_bound_is_that_of_the_worst_hessian(angle, bound):
    """Among Hessians with eigenvalues k and k + 1 one makes the step as long as the bound."""
    step = trained(angle=angle, bound=bound)
    k = step.curvature
    eye = torch.eye(2, dtype=torch.float64)
    omega = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    longest = 0.0
    for degrees in range(180):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        along = torch.tensor([[c * c, c * s], [c * s, s * s]], dtype=torch.float64)
        jacobian = eye + (step.rotation * omega - step.damping * eye) @ (k * eye + along)
        longest = max(longest, float(torch.linalg.matrix_norm(jacobian, 2)))
    assert 0.999 * bound <= longest <= bound * (1 + 1e-12)


def test_the_gradient_of_the_energy_drives_the_field():
    step = trained(angle=0.4)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(step.energy(x).sum(), x)
    q, p = gradient.chunk(2, dim=1)
    j, g = step.rotation, step.damping
    torch.testing.assert_close(step.field(x), torch.cat([j * p - g * q, -j * q - g * p], dim=1))


def test_too_little_damping_is_found_out():
    step = trained(angle=0.5, activation="relu")
    step.damping /= 4
    x = torch.randn(4, 6, dtype=torch.float64)
    claims = [Nonexpansive(), LogarithmicNorm()]
    found = check_properties(step, claims, x, search=False)
    assert {f.claim for f in found if not f.holds} == {"nonexpansive", "logarithmic-norm"}
    assert lipschitz_bound(step) > 1
    for jacobian in jacobians(step, x):
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= lipschitz_bound(step)


def test_weights_that_are_not_finite_have_no_bound():
    step = trained()
    step.weight[0, 0] = math.nan
    assert not lipschitz_bound(step) < math.inf


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((6, 6), {"angle": 0.0}),
        ((6, 6), {"angle": 1.2}),
        ((6, 6), {"bound": 1.1}),
        ((6, 6), {"angle": 0.5, "bound": 0.4}),
        ((5, 5), {}),
        ((6, 6), {"activation": "sin"}),
    ],
)
def test_settings_that_no_damping_meets_are_refused(shape, options):
    with pytest.raises(ValueError, match=r"leave no step|no halves|increase"):
        DenseContractiveHamiltonianStep(*shape, **options)
