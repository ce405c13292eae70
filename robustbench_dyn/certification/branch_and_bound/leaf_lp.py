"""Fully split subproblems in Linf and L1: linear programs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball

# The cost of violating the split decisions by 1, for an objective of slopes of size 1. The dual
# variables sum to at most this; they reach it where the subproblem is empty.
_PENALTY = 1e4


class LeafSolution(NamedTuple):
    """The solution of a fully split subproblem.

    dual_variables: (constraints,), at least 0. x: (inputs,), the minimiser.
    """

    dual_variables: Tensor
    x: Tensor


def solve(
    slope: Tensor, normals: Tensor, offsets: Tensor, ball: Ball, *, example: int
) -> LeafSolution | None:
    """Minimise slope x over the ball of an example where normals x + offsets >= 0.

    slope: (inputs,); normals: (constraints, inputs); offsets: (constraints,); all float64. The dual
    variables are what HiGHS returns: they give a bound, which is proved elsewhere. None: it found
    no solution.
    """
    d, n = len(slope), len(normals)
    penalty = _PENALTY * max(1.0, float(slope.abs().max()))
    # The last variable says how far the constraints may be violated.
    cost = np.append(slope.numpy(), penalty)
    rows = sparse.csr_matrix(np.hstack([-normals.numpy(), -np.ones((n, 1))]))
    sides = offsets.numpy()
    box = zip(ball.lower[example].tolist(), ball.upper[example].tolist(), strict=True)
    bounds: list[tuple[float, float | None]] = [*box, (0.0, None)]
    if ball.norm == "L1":
        # Steps, at least the distance in each coordinate, with the budget as their sum.
        centre, unit = ball.centre[example].numpy(), sparse.eye(d)
        nothing = sparse.csr_matrix((d, 1))
        rows = sparse.bmat(
            [
                [rows, sparse.csr_matrix((n, d))],
                [sparse.hstack([unit, nothing]), -unit],
                [sparse.hstack([-unit, nothing]), -unit],
                [None, np.ones((1, d))],
            ]
        )
        sides = np.concatenate([sides, centre, -centre, [ball.eps]])
        cost, bounds = np.append(cost, np.zeros(d)), bounds + [(0.0, None)] * d
    result = linprog(cost, A_ub=rows, b_ub=sides, bounds=bounds, method="highs")
    if result.x is None or result.status != 0:
        return None
    dual_variables = -np.asarray(result.ineqlin.marginals)[:n]
    return LeafSolution(
        torch.from_numpy(dual_variables).clamp_min(0), torch.from_numpy(result.x[:d])
    )
