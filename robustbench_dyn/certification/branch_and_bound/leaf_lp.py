"""Where all signs are known and the ball is a polytope, the network is a linear program."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball

# What multipliers may sum to, for a function of slopes of size 1: what lies outside of a leaf costs
# so much. It is all used up where the leaf is empty.
_PENALTY = 1e4


class Leaf(NamedTuple):
    """multipliers: (constraints,), at least 0; x: (inputs,), where the program is least."""

    multipliers: Tensor
    x: Tensor


def solve(slope: Tensor, normals: Tensor, offsets: Tensor, ball: Ball) -> Leaf | None:
    """Minimise slope x over the ball of one example where normals x + offsets >= 0.

    slope: (inputs,); normals: (constraints, inputs); offsets: (constraints,); all float64. The
    multipliers are what HiGHS says: they are good for a bound, whose proof is another's. None: it
    found nothing.
    """
    d, n = len(slope), len(normals)
    penalty = _PENALTY * max(1.0, float(slope.abs().max()))
    # Each constraint may be missed by what one last variable says.
    cost = np.append(slope.numpy(), penalty)
    rows = sparse.csr_matrix(np.hstack([-normals.numpy(), -np.ones((n, 1))]))
    sides, bounds = offsets.numpy(), [*zip(ball.lower[0].tolist(), ball.upper[0].tolist(),
                                           strict=True), (0.0, None)]  # fmt: skip
    if ball.norm == "L1":
        # Moves, at least the distance in each coordinate, that the budget pays for.
        centre, unit = ball.centre[0].numpy(), sparse.eye(d)
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
    found = linprog(cost, A_ub=rows, b_ub=sides, bounds=bounds, method="highs")
    if found.x is None or found.status != 0:
        return None
    multipliers = -np.asarray(found.ineqlin.marginals)[:n]
    return Leaf(torch.from_numpy(multipliers).clamp_min(0), torch.from_numpy(found.x[:d]))
