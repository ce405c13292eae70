"""Exact minima and Lipschitz constants of tiny ReLU networks, pattern by pattern."""

from itertools import product

import numpy as np
from scipy.optimize import linprog

from robustbench_dyn.certification.contract.exact_distance import (
    layers,
    least_distance,
    pieces,
    tiny_network,
)

__all__ = ["least_difference", "least_distance", "lipschitz_constant", "tiny_network"]


def least_difference(model, x, label, competitor, norm, eps):
    """Return the exact minimum of F_label - F_competitor over the L1 or Linf ball within [0, 1].

    Each pattern of active neurons is a polytope on which the network is affine. x: (d,).
    """
    x = np.asarray(x, dtype=float)
    d, (*hidden, last) = len(x), layers(model)
    # Variables: x', and for L1 the steps t with |x' - x| <= t.
    extra = d if norm == "L1" else 0
    box = [(max(0.0, v - eps), min(1.0, v + eps)) for v in x] + [(0.0, None)] * extra
    ball_rows, ball_sides = [], []
    if norm == "L1":
        one = np.eye(d)
        ball_rows = [*np.hstack([one, -one]), *np.hstack([-one, -one])]
        ball_sides = [*x, *-x]
        ball_rows.append(np.r_[np.zeros(d), np.ones(d)])
        ball_sides.append(eps)
    least = np.inf
    sizes = [len(bias) for _, bias in hidden]
    for pattern in product((0, 1), repeat=sum(sizes)):
        matrix, offset, start = np.eye(d), np.zeros(d), 0
        rows, sides = list(ball_rows), list(ball_sides)
        for (weight, bias), size in zip(hidden, sizes, strict=True):
            active = np.array(pattern[start : start + size])
            start += size
            matrix, offset = weight @ matrix, weight @ offset + bias
            for row, side, on in zip(matrix, offset, active, strict=True):
                sign = -1.0 if on else 1.0
                rows.append(np.r_[sign * row, np.zeros(extra)])
                sides.append(-sign * side)
            matrix, offset = active[:, None] * matrix, active * offset
        difference = last[0][label] - last[0][competitor]
        constant = difference @ offset + last[1][label] - last[1][competitor]
        cost = np.r_[difference @ matrix, np.zeros(extra)]
        found = linprog(cost, A_ub=np.array(rows), b_ub=np.array(sides), bounds=box)
        if found.status == 0:
            least = min(least, found.fun + constant)
    return least


def lipschitz_constant(model, label, competitor):
    """Return the exact L2 Lipschitz constant of F_label - F_competitor on the whole space."""
    constant = 0.0
    for rows, sides, matrix, _ in pieces(model):
        # A piece counts where a ball fits into it.
        lengths = np.linalg.norm(rows, axis=1)
        cost = np.r_[np.zeros(rows.shape[1]), -1.0]
        bounds = [(None, None)] * rows.shape[1] + [(0.0, 1.0)]
        found = linprog(cost, A_ub=np.c_[rows, lengths], b_ub=sides, bounds=bounds)
        if found.status == 0 and -found.fun > 1e-7:
            constant = max(constant, float(np.linalg.norm(matrix[label] - matrix[competitor])))
    return constant
