"""Flows of bounded logarithmic norm: every slope of the activation, and fields that break it."""

import itertools
import math

import pytest
import torch
from torch import nn

from robustbench_dyn.flows import LogNormFlow, lipschitz_bound
from robustbench_dyn.lipschitz.eigenvalues import largest_eigenvalue
from robustbench_dyn.properties import Convergent, Lipschitz, LogarithmicNorm, check_properties


def flow(*, delta=0.0, n_steps=2, noise=0.6, seed=0, features=5):
    """Return a flow in float64 whose matrix was drawn at random and then retracted."""
    torch.manual_seed(seed)
    made = LogNormFlow(features, delta=delta, n_steps=n_steps).double()
    with torch.no_grad():
        made.field.weight.add_(noise * torch.randn_like(made.field.weight))
        made.field.bias.add_(torch.randn_like(made.field.bias))
    made.retract()
    return made.requires_grad_(False)


def jacobians(made):
    """Yield D A for every diagonal D whose entries are the smallest or the largest slope."""
    n = len(made.field.weight)
    for slopes in itertools.product((made.slope, 1.0), repeat=n):
        yield torch.tensor(slopes, dtype=torch.float64)[:, None] * made.field.weight


def logarithmic_norm(matrix):
    return float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])


CASES = [(delta, n, seed) for delta in (-0.3, 0.0, 0.5) for n in (1, 3) for seed in (0, 1)]


@pytest.mark.parametrize(("delta", "n_steps", "seed"), CASES)
def test_every_slope_keeps_the_logarithmic_norm_and_the_bound_of_a_step(delta, n_steps, seed):
    made = flow(delta=delta, n_steps=n_steps, seed=seed)
    eye = torch.eye(len(made.field.weight), dtype=torch.float64)
    step = made.step_bound()
    assert step <= 1 + made.h * delta
    for jacobian in jacobians(made):
        assert float(torch.linalg.matrix_norm(eye + made.h * jacobian, 2)) <= step
        assert logarithmic_norm(jacobian) <= delta
    assert lipschitz_bound(made) <= math.exp(delta * made.duration)


def test_the_bound_of_a_step_is_nearly_attained():
    made = flow()
    eye = torch.eye(5, dtype=torch.float64)
    steepest = max(float(torch.linalg.matrix_norm(eye + made.h * j, 2)) for j in jacobians(made))
    assert steepest >= 0.9 * made.step_bound()


def test_without_a_retraction_the_claims_are_broken():
    made = flow()
    made.field.weight.copy_(torch.eye(5) + 0.3 * torch.randn(5, 5))
    claims = [LogarithmicNorm(), Lipschitz(bound=1.0)]
    found = list(check_properties(made, claims, torch.randn(4, 5), search=False))
    assert {f.claim for f in found if not f.holds} == {"logarithmic-norm", "lipschitz"}
    assert made.step_bound() > 1
    made.retract()
    found = list(check_properties(made, claims, torch.randn(4, 5), search=False))
    assert all(f.holds for f in found)


def test_a_retraction_leaves_matrices_inside_alone():
    made = flow()
    before = made.field.weight.clone()
    made.retract()
    torch.testing.assert_close(made.field.weight, before, rtol=1e-5, atol=1e-6)


def test_smaller_steps_keep_the_bound_and_follow_the_flow():
    made = flow(noise=0.3)
    x = torch.randn(6, 5, dtype=torch.float64)
    one, other = made.refined(64)(x), made.refined(64)(x + 0.01)
    assert bool(((one - other).norm(dim=1) <= (0.01 * 5**0.5) * (1 + 1e-9)).all())
    found = list(check_properties(made, [Convergent(order=1)], x))
    assert all(f.holds for f in found)


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"duration": 3.0}, {"delta": -1.0}])
def test_a_constraint_that_no_matrix_meets_is_refused(options):
    with pytest.raises(ValueError, match="leave no matrix"):
        LogNormFlow(4, **options)


def test_relu_is_allowed_where_the_flow_may_grow():
    made = LogNormFlow(4, delta=0.1, activation="relu")
    assert lipschitz_bound(made) <= math.exp(0.1)


@pytest.mark.parametrize("seed", range(8))
def test_the_largest_eigenvalue_is_bounded_tightly_from_above(seed):
    torch.manual_seed(seed)
    matrix = torch.randn(9, 9, dtype=torch.float64) * 10.0 ** (seed - 4) - (seed % 2) * torch.eye(9)
    symmetric = (matrix + matrix.T) / 2
    exact = float(torch.linalg.eigvalsh(symmetric)[-1])
    bound = largest_eigenvalue(matrix)
    assert exact <= bound <= exact + 1e-11 * (1 + float(symmetric.norm()))


@pytest.mark.parametrize("eigenvalues", [(-3.0, -1.0), (0.0, 0.0), (-1.0, 2.0)])
def test_known_eigenvalues_are_not_underestimated(eigenvalues):
    assert 0 <= largest_eigenvalue(torch.diag(torch.tensor(eigenvalues))) - max(eigenvalues) < 1e-11


def test_a_matrix_that_is_not_finite_has_no_bound():
    made = flow()
    made.field.weight[0, 0] = math.nan
    made.retract()
    assert not lipschitz_bound(made) < math.inf
    assert math.isnan(largest_eigenvalue(torch.tensor([[math.nan, 0.0], [0.0, 1.0]])))


class Rotating(nn.Module):
    """x' = (S - 1) x with a skew-symmetric S: the logarithmic norm is -1, the norm much larger."""

    def field(self, x):
        skew = torch.tensor([[0.0, 5.0], [-5.0, 0.0]], dtype=x.dtype)
        return x @ skew.T - x

    def forward(self, x):
        return self.field(x)


def test_the_logarithmic_norm_of_a_rotating_field_is_measured():
    x = torch.randn(3, 2)
    assert all(f.holds for f in check_properties(Rotating(), [LogarithmicNorm(bound=-1.0)], x))
    found = list(check_properties(Rotating(), [LogarithmicNorm(bound=-1.1)], x, search=False))
    assert not any(f.holds for f in found)
    assert found[0].defect == pytest.approx(0.1, rel=1e-3)
