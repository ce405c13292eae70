"""The exact robustness of tiny ReLU networks, by one program for each activation pattern."""

from itertools import product

import numpy as np
import torch
from scipy.optimize import linprog, nnls


def layers(model):
    """Return (weights, biases) of nn.Sequential(Flatten, Linear, ReLU, ..., Linear), as arrays."""
    linear = [layer for layer in model if hasattr(layer, "weight")]
    return [
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in linear
    ]


def least_difference(model, x, label, rival, norm, eps):
    """Return the exact minimum of F_label - F_rival over the L1 or Linf ball within [0, 1].

    Each pattern of active neurons is a polytope on which the network is affine. x: (d,).
    """
    x = np.asarray(x, dtype=float)
    d, (*hidden, last) = len(x), layers(model)
    # Variables: x', and for L1 what x' moves, |x' - x| <= t.
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
        difference = last[0][label] - last[0][rival]
        constant = difference @ offset + last[1][label] - last[1][rival]
        cost = np.r_[difference @ matrix, np.zeros(extra)]
        found = linprog(cost, A_ub=np.array(rows), b_ub=np.array(sides), bounds=box)
        if found.status == 0:
            least = min(least, found.fun + constant)
    return least


def pieces(model):
    """Yield (rows, sides, matrix, offset) of each activation pattern of a network.

    Where rows x <= sides, the logits are matrix x + offset; the polytope may be empty.
    """
    *hidden, last = layers(model)
    sizes = [len(bias) for _, bias in hidden]
    for pattern in product((0, 1), repeat=sum(sizes)):
        matrix, offset, start = np.eye(hidden[0][0].shape[1]), 0.0, 0
        rows, sides = [], []
        for (weight, bias), size in zip(hidden, sizes, strict=True):
            active = np.array(pattern[start : start + size])
            start += size
            matrix, offset = weight @ matrix, weight @ (offset + np.zeros(len(weight[0]))) + bias
            sign = 1.0 - 2.0 * active
            rows.append(sign[:, None] * matrix)
            sides.append(-sign * offset)
            matrix, offset = active[:, None] * matrix, active * offset
        yield np.vstack(rows), np.hstack(sides), last[0] @ matrix, last[0] @ offset + last[1]


def lipschitz_constant(model, label, rival):
    """Return the exact L2 Lipschitz constant of F_label - F_rival on the whole space."""
    steepest = 0.0
    for rows, sides, matrix, _ in pieces(model):
        # A piece counts where a ball fits into it.
        lengths = np.linalg.norm(rows, axis=1)
        cost = np.r_[np.zeros(rows.shape[1]), -1.0]
        bounds = [(None, None)] * rows.shape[1] + [(0.0, 1.0)]
        found = linprog(cost, A_ub=np.c_[rows, lengths], b_ub=sides, bounds=bounds)
        if found.status == 0 and -found.fun > 1e-7:
            steepest = max(steepest, float(np.linalg.norm(matrix[label] - matrix[rival])))
    return steepest


def least_distance(model, x, label, rival, norm="L2"):
    """Return the exact distance within [0, 1] from x to where F_label <= F_rival."""
    x = np.asarray(x, dtype=float)
    one = np.eye(len(x))
    least = np.inf
    for rows, sides, matrix, offset in pieces(model):
        difference = matrix[label] - matrix[rival]
        all_rows = np.vstack([rows, one, -one, difference])
        all_sides = np.r_[sides, np.ones(len(x)), np.zeros(len(x)), offset[rival] - offset[label]]
        if norm == "L2":
            distance = _distance_to_polytope(x, all_rows, all_sides)
        else:
            distance = _linear_distance_to_polytope(x, all_rows, all_sides, norm)
        least = min(least, distance)
    return least


def _linear_distance_to_polytope(x, rows, sides, norm):
    """Return the least L1 or Linf norm of u with rows (x + u) <= sides; inf where there is none."""
    d, one = len(x), np.eye(len(x))
    # Beside u: one t for all |u_i|, whose least value is the Linf norm, or a t_i for each.
    tied = np.ones((d, 1)) if norm == "Linf" else one
    ball = np.vstack([np.hstack([one, -tied]), np.hstack([-one, -tied])])
    free = np.hstack([rows, np.zeros((len(rows), tied.shape[1]))])
    found = linprog(
        np.r_[np.zeros(d), np.ones(tied.shape[1])], A_ub=np.vstack([free, ball]),
        b_ub=np.r_[sides - rows @ x, np.zeros(2 * d)],
        bounds=[(None, None)] * d + [(0.0, None)] * tied.shape[1],
    )  # fmt: skip
    return float(found.fun) if found.status == 0 else np.inf


def _distance_to_polytope(x, rows, sides):
    """Return min |u| with rows (x + u) <= sides; inf where there is none.

    Least distance programming: Lawson & Hanson, Solving Least Squares Problems, chapter 23.4.
    """
    stacked = np.vstack([-rows.T, (rows @ x - sides)[None]])
    target = np.r_[np.zeros(len(x)), 1.0]
    multipliers, _ = nnls(stacked, target)
    residual = stacked @ multipliers - target
    if np.linalg.norm(residual) < 1e-9:
        return np.inf
    return float(np.linalg.norm(residual[:-1] / residual[-1]))


def tiny_network(seed, *, d=3, widths=(4, 3), n_classes=3, gain=1.0):
    """Return a random ReLU network on (1, 1, d) inputs, in float64."""
    generator = torch.Generator().manual_seed(seed)
    parts, features = [torch.nn.Flatten()], d
    for width in widths:
        parts += [torch.nn.Linear(features, width), torch.nn.ReLU()]
        features = width
    model = torch.nn.Sequential(*parts, torch.nn.Linear(features, n_classes)).double()
    for parameter in model.parameters():
        parameter.data = gain * torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    return model.eval()
