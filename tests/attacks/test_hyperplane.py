"""Projections onto a hyperplane inside the box, against general solvers and their conditions."""

import pytest
import torch
from scipy.optimize import linprog, minimize

from robustbench_dyn.attacks.native.hyperplane import project_onto_hyperplane

NORMS = ["L2", "Linf", "L1"]


def cases(n=40, d=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, d, generator=generator).double()
    w = torch.randn(n, d, generator=generator).double()
    w[::5, 0] = 0
    # Half the values within reach of the box, and some far outside.
    value = torch.randn(n, generator=generator).double() * torch.tensor([0.3, 3.0]).repeat(n // 2)
    return x, w, value


def length(delta, norm):
    return torch.linalg.vector_norm(delta, {"L2": 2, "Linf": torch.inf, "L1": 1}[norm], dim=-1)


def optimum(x, w, value, norm):
    """Return the least norm of z - x, by scipy; None where the hyperplane misses the box."""
    d = len(x)
    x, w, value = x.numpy(), w.numpy(), float(value)
    box = list(zip(-x, 1 - x, strict=True))
    if norm == "L2":
        found = minimize(
            lambda t: t @ t,
            0 * x,
            jac=lambda t: 2 * t,
            bounds=box,
            method="SLSQP",
            tol=1e-14,
            constraints={"type": "eq", "fun": lambda t: value + w @ t, "jac": lambda t: w},
        )
        return found.fun**0.5 if found.success and abs(value + w @ found.x) < 1e-9 else None
    # Bound t by s (one for all in Linf, one each in L1) and minimise the sum of s.
    m = 1 if norm == "Linf" else d
    spread = torch.ones(d, 1).numpy() if m == 1 else torch.eye(d).numpy()
    eye = torch.eye(d).numpy()
    upper = [[*row, *-s] for row, s in zip(eye, spread, strict=True)]
    lower = [[*-row, *-s] for row, s in zip(eye, spread, strict=True)]
    solved = linprog(
        [0.0] * d + [1.0] * m,
        A_ub=upper + lower,
        b_ub=[0.0] * 2 * d,
        A_eq=[[*w, *[0.0] * m]],
        b_eq=[-value],
        bounds=box + [(0, None)] * m,
    )
    return solved.fun if solved.success else None


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_nearest_point_or_the_nearest_corner(norm):
    x, w, value = cases()
    z = project_onto_hyperplane(x, w, value, norm)
    assert (z >= 0).all()
    assert (z <= 1).all()
    left = value + (w * (z - x)).sum(dim=1)
    expected = [optimum(*row, norm) for row in zip(x, w, value, strict=True)]
    reachable = torch.tensor([e is not None for e in expected])
    assert reachable.any()
    assert not reachable.all()
    torch.testing.assert_close(left[reachable], torch.zeros(int(reachable.sum())).double())
    least = torch.tensor([e for e in expected if e is not None]).double()
    torch.testing.assert_close(length(z - x, norm)[reachable], least, rtol=1e-5, atol=1e-7)
    # Out of reach: every coordinate stands at the end that lowers |value| most.
    corner = torch.where(w * value[:, None] > 0, 0.0, 1.0).double()
    missed = ~reachable[:, None] & (w != 0)
    torch.testing.assert_close(z[missed], corner[missed])


@pytest.mark.parametrize("norm", NORMS)
def test_a_point_on_the_hyperplane_and_a_flat_function_stay(norm):
    x, w, _ = cases()
    assert torch.equal(project_onto_hyperplane(x, w, torch.zeros(len(x)).double(), norm), x)
    ones = torch.ones(len(x)).double()
    flat = project_onto_hyperplane(x, torch.zeros_like(w), ones, norm)
    assert torch.equal(flat, x)
