"""The exact robustness of tiny ReLU networks, by a program for each activation pattern."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, nnls
from torch import Tensor, nn

from robustbench_dyn.threat_models import Norm

Array = NDArray[np.float64]


class Piece(NamedTuple):
    """Where rows x <= sides, the logits are matrix x + offset; the polytope may be empty."""

    rows: Array
    sides: Array
    matrix: Array
    offset: Array


def layers(model: nn.Sequential) -> list[tuple[Array, Array]]:
    """Return the weights and biases of a Sequential of Flatten, Linear, ReLU, ..., Linear."""
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    return [
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in linear
    ]


def pieces(model: nn.Sequential) -> Iterator[Piece]:
    """Yield the affine piece of each activation pattern of such a network."""
    *hidden, last = layers(model)
    d = (hidden or [last])[0][0].shape[1]
    sizes = [len(bias) for _, bias in hidden]
    for pattern in product((0, 1), repeat=sum(sizes)):
        matrix, offset, start = np.eye(d), np.zeros(d), 0
        rows, sides = [np.zeros((0, d))], [np.zeros(0)]
        for (weight, bias), size in zip(hidden, sizes, strict=True):
            active = np.array(pattern[start : start + size])
            start += size
            matrix, offset = weight @ matrix, weight @ offset + bias
            sign = 1.0 - 2.0 * active
            rows.append(sign[:, None] * matrix)
            sides.append(-sign * offset)
            matrix, offset = active[:, None] * matrix, active * offset
        yield Piece(np.vstack(rows), np.hstack(sides), last[0] @ matrix, last[0] @ offset + last[1])


def exact_distances(model: nn.Sequential, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """Return the distance from each x to where class j reaches the label, (batch, classes).

    Within [0, 1], float64; inf for the label itself and for classes that never reach it, 0 where x
    is not classified as y. x: (batch, *input_shape); y: (batch,).
    """
    n_classes = len(layers(model)[-1][1])
    return torch.tensor(
        [
            [
                np.inf if j == label else least_distance(model, point, label, j, norm)
                for j in range(n_classes)
            ]
            for point, label in zip(x.flatten(1).double().numpy(), y.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )


def least_distance(
    model: nn.Sequential, x: Any, label: int, competitor: int, norm: Norm = "L2"
) -> float:
    """Return the exact distance within [0, 1] from x, (inputs,), to F_label <= F_competitor."""
    x = np.asarray(x, dtype=float)
    one = np.eye(len(x))
    least = np.inf
    for rows, sides, matrix, offset in pieces(model):
        difference = matrix[label] - matrix[competitor]
        all_rows = np.vstack([rows, one, -one, difference])
        limit = offset[competitor] - offset[label]
        all_sides = np.r_[sides, np.ones(len(x)), np.zeros(len(x)), limit]
        if norm == "L2":
            distance = _distance_to_polytope(x, all_rows, all_sides)
        else:
            distance = _linear_distance_to_polytope(x, all_rows, all_sides, norm)
        least = min(least, distance)
    return least


def _linear_distance_to_polytope(x: Array, rows: Array, sides: Array, norm: Norm) -> float:
    """Return the least L1 or Linf norm of u with rows (x + u) <= sides; inf where there is none."""
    d, one = len(x), np.eye(len(x))
    # Beside u: one t for all |u_i|, whose least value is the Linf norm, or a t_i for each.
    tied = np.ones((d, 1)) if norm == "Linf" else one
    ball = np.vstack([np.hstack([one, -tied]), np.hstack([-one, -tied])])
    free = np.hstack([rows, np.zeros((len(rows), tied.shape[1]))])
    found = linprog(
        np.r_[np.zeros(d), np.ones(tied.shape[1])],
        A_ub=np.vstack([free, ball]),
        b_ub=np.r_[sides - rows @ x, np.zeros(2 * d)],
        bounds=[(None, None)] * d + [(0.0, None)] * tied.shape[1],
    )
    return float(found.fun) if found.status == 0 else np.inf


def _distance_to_polytope(x: Array, rows: Array, sides: Array) -> float:
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


def tiny_network(
    seed: int,
    *,
    d: int = 3,
    widths: tuple[int, ...] = (4, 3),
    n_classes: int = 3,
    gain: float = 1.0,
) -> nn.Sequential:
    """Return a random ReLU network on (1, 1, d) inputs, in float64; without widths it is linear."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = [nn.Flatten()]
    features = d
    for width in widths:
        parts += [nn.Linear(features, width), nn.ReLU()]
        features = width
    model = nn.Sequential(*parts, nn.Linear(features, n_classes)).double()
    for parameter in model.parameters():
        parameter.data = gain * torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    return model.eval()
