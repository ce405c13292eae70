"""Monotone equilibria: exact fixed points and Jacobians, and operators that are not monotone."""

import math

import pytest
import torch

from robustbench_dyn.flows import MonotoneEquilibrium, lipschitz_bound
from robustbench_dyn.properties import AtEquilibrium, Nonexpansive, check_properties


def trained(*, kind=MonotoneEquilibrium, noise=0.5, **options):
    """Return an equilibrium of 4 inputs in float64 whose weights lie away from their start."""
    torch.manual_seed(0)
    made = kind(4, **options).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return made.requires_grad_(False)


def exact_equilibrium(made, x):
    """Return z by trying all sets of active units: there G z = d, z >= 0, elsewhere G z >= d."""
    iteration, drive = made.value(), made._drive(x)[0]
    n = len(iteration)
    matrix = torch.eye(n, dtype=torch.float64) - iteration
    for bits in range(2**n):
        active = [i for i in range(n) if bits >> i & 1]
        z = torch.zeros(n, dtype=torch.float64)
        if active:
            z[active] = torch.linalg.solve(matrix[active][:, active], drive[active])
        rest = drive - matrix @ z
        if bool((z >= 0).all()) and bool(
            (rest[[i for i in range(n) if i not in active]] <= 1e-9).all()
        ):
            return z
    raise AssertionError("no equilibrium")


@pytest.mark.parametrize("skew", [0.0, 0.2, 0.8])
def test_the_iteration_ends_at_the_exact_equilibrium(skew):
    made = trained(skew=skew)
    for x in torch.randn(3, 1, 4, dtype=torch.float64):
        distance = float((made(x)[0] - exact_equilibrium(made, x)).norm())
        assert distance <= made.solver_error() * float(made.first(x).norm()) + 1e-14


@pytest.mark.parametrize("skew", [0.0, 0.2, 0.8])
def test_rate_and_bounds_hold_by_construction(skew):
    made = trained(skew=skew, noise=2.0)
    matrix = (torch.eye(8, dtype=torch.float64) - made.value()) * 1.5
    assert float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0]) >= 1 - 1e-12
    exact = float(torch.linalg.matrix_norm(made.value(), 2))
    assert exact <= made.rate() <= min(exact * (1 + 1e-9), (1 + 2 * skew) / 3)
    assert made.solver_error() <= 1e-6
    assert lipschitz_bound(made) <= 1
    for x in 2 * torch.randn(8, 1, 4, dtype=torch.float64):
        jacobian = torch.func.jacrev(made)(x).reshape(8, 4)
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= lipschitz_bound(made)


class NotMonotone(MonotoneEquilibrium):
    """Its operator has a negative eigenvalue, so that an equilibrium need not exist."""

    def compute(self):
        return super().compute() + 2 * torch.eye(8, dtype=self.factor.dtype)


class TooFew(MonotoneEquilibrium):
    """It stops early, and states the error of the iterations that it does not make."""

    def __init__(self, features, **options):
        super().__init__(features, **options)
        self.n_iterations = 3

    def solver_error(self):
        return 1e-6


def test_an_operator_that_is_not_monotone_is_found_out():
    made = trained(kind=NotMonotone)
    x = torch.randn(4, 4, dtype=torch.float64)
    assert lipschitz_bound(made) > 1
    assert made.solver_error() == math.inf
    assert not all(f.holds for f in check_properties(made, [Nonexpansive()], x, search=False))


def test_a_solver_that_stops_early_is_found_out():
    x = torch.randn(4, 4, dtype=torch.float64)
    assert all(f.holds for f in check_properties(trained(), [AtEquilibrium()], x))
    early = list(check_properties(trained(kind=TooFew), [AtEquilibrium()], x, search=False))
    assert not any(f.holds for f in early)


@pytest.mark.parametrize("part", ["factor", "rotation"])
def test_weights_that_are_not_finite_have_no_bound(part):
    made = trained()
    getattr(made, part)[0, 1] = math.nan
    assert not lipschitz_bound(made) < math.inf
    assert made.solver_error() == math.inf


def test_a_smaller_tolerance_takes_more_iterations():
    counts = [MonotoneEquilibrium(4, tolerance=t).n_iterations for t in (1e-2, 1e-4, 1e-8)]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("options", [{"skew": 1.0}, {"skew": -0.1}, {"tolerance": 0.0}])
def test_settings_without_a_rate_are_refused(options):
    with pytest.raises(ValueError, match="must be in"):
        MonotoneEquilibrium(4, **options)
