"""The exact robustness of tiny ReLU networks, by a linear program for each activation pattern."""

from itertools import product

import numpy as np
import torch
from scipy.optimize import linprog


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
