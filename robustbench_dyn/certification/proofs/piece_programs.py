"""Convex programs over affine pieces: the best bound by shares of the label's pieces.

See max_affine_exact: a share t_i >= 0 for each piece i of the label, which sum to 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball

_UNIT = 2.0**-53
# Of the label's pieces in a linear program: at first, and each time that others are larger.
_ROWS, _MOST_ROUNDS = 24, 20


class Cells(NamedTuple):
    """The label's pieces, (pieces, inputs), and competing ones, (n, inputs), with their biases.

    The network's rounding is in the biases: less for the label's, more for the competing ones.
    certain: a margin below it is negative in the network as well.
    """

    own: Tensor
    own_bias: Tensor
    competing: Tensor
    competing_bias: Tensor
    certain: float

    def at(self, rows: Tensor) -> Cells:
        """Return some of the competing pieces."""
        return self._replace(
            competing=self.competing[rows], competing_bias=self.competing_bias[rows]
        )

    def margins(self, points: Tensor) -> Tensor:
        """Return a_yi - a_jl at a point for each competing piece, (n, pieces of the label)."""
        competing = (points * self.competing).sum(dim=1) + self.competing_bias
        return points @ self.own.T + self.own_bias - competing[:, None]

    def proved(self, shares: Tensor, ball: Ball) -> Tensor:
        """Say whether g is above 0 at shares, (n, pieces of the label): (n,) bool."""
        rows = shares @ self.own - self.competing
        value = ball.minimum(rows, _first(rows)) + shares @ self.own_bias - self.competing_bias
        # The sums over shares, which add up to 1 up to their own rounding; inputs are in [0, 1].
        largest = self.own.abs().sum(dim=1).amax() + self.own_bias.abs().amax()
        size = largest + self.competing.abs().sum(dim=1) + self.competing_bias.abs()
        return value > 4 * (self.own.shape[0] + 16) * _UNIT * size


class Found(NamedTuple):
    """Shares of the label's pieces, (n, pieces), and the point of the least largest margin seen.

    largest: that margin; where it is at most 0, no shares can prove the competing piece.
    """

    shares: Tensor
    largest: float
    point: Tensor


def program(cells: Cells, ball: Ball) -> Found:
    """Minimise the largest a_yi - a_jl for one competing piece, in Linf and L1: a linear program.

    Its dual variables are the shares. It has rows for the label's pieces that are largest at a
    solution without them.
    """
    slopes = (cells.own - cells.competing).numpy()
    centre, d = ball.centre[0].numpy(), len(ball.centre[0])
    at_centre = slopes @ centre + (cells.own_bias - cells.competing_bias).numpy()
    down, up = (ball.lower[0] - ball.centre[0]).numpy(), (ball.upper[0] - ball.centre[0]).numpy()
    if ball.norm == "Linf":
        columns, bounds = slopes, list(zip(down, up, strict=True))
    else:
        # Steps up and down, with the budget as their sum.
        columns = np.hstack([slopes, -slopes])
        bounds = [(0.0, most) for most in (*up, *-down)]
    shares = torch.zeros(1, len(slopes), dtype=torch.float64)
    values, rows = at_centre, np.zeros(0, dtype=np.int64)
    found = Found(shares, math.inf, ball.centre[0])
    for _ in range(_MOST_ROUNDS):
        rows = np.union1d(rows, np.argsort(values)[-_ROWS:])
        sides, matrix = -at_centre[rows], np.hstack([columns[rows], -np.ones((len(rows), 1))])
        if ball.norm == "L1":
            budget = np.r_[np.ones(2 * d), 0.0]
            matrix, sides = np.vstack([matrix, budget]), np.r_[sides, ball.eps]
        cost = np.r_[np.zeros(columns.shape[1]), 1.0]
        result = linprog(
            cost, A_ub=matrix, b_ub=sides, bounds=[*bounds, (None, None)], method="highs"
        )
        if result.status != 0:
            return found
        step = result.x[:d] if ball.norm == "Linf" else result.x[:d] - result.x[d : 2 * d]
        values = at_centre + slopes @ step
        if values.max() < found.largest:
            found = found._replace(
                largest=float(values.max()), point=ball.centre[0] + torch.from_numpy(step)
            )
        multipliers = torch.from_numpy(-result.ineqlin.marginals[: len(rows)]).clamp_min(0)
        shares[0].zero_()[rows] = multipliers / multipliers.sum().clamp_min(1e-30)
        if values.max() <= result.fun + 1e-7 or values.max() < cells.certain:
            break
    return found


def ascend(cells: Cells, shares: Tensor, ball: Ball, n_steps: int) -> Found:
    """Increase g in L2 for each competing piece, by moving shares between the label's pieces.

    From the piece with the least margin at the minimiser to the one with the largest, by a Newton
    step on the sphere's curvature (sequential minimal optimisation); a step that decreases g is
    taken back and halved. A piece is done once g is above 0; the search ends with a point that is
    certainly an adversarial example of exact arithmetic.
    """
    best_shares, now = shares.clone(), shares.clone()
    best = shares.new_full((len(shares),), -torch.inf)
    scale = torch.ones_like(best)
    open_ = torch.arange(len(shares), device=shares.device)
    largest, point = math.inf, ball.centre[0]
    for _ in range(n_steps):
        some, t = cells.at(open_), now[open_]
        rows, points, margins = _minimise(some, t, ball)
        value, most = (t * margins).sum(dim=1), margins.amax(dim=1)
        if float(most.min()) < largest:
            largest, point = float(most.min()), points[most.argmin()]
            if largest < cells.certain:
                break
        better = value > best[open_]
        best[open_] = value.maximum(best[open_])
        best_shares[open_[better]] = t[better]
        scale[open_] = torch.where(better, (1.5 * scale[open_]).clamp_max(1.0), scale[open_] / 2)
        if not bool(better.all()):
            t = best_shares[open_]
            rows, points, margins = _minimise(some, t, ball)
        up = margins.argmax(dim=1, keepdim=True)
        down = margins.where(t > 0, torch.inf).argmin(dim=1, keepdim=True)
        gain = margins.gather(1, up) - margins.gather(1, down)
        change = cells.own[up[:, 0]] - cells.own[down[:, 0]]
        moved = (scale[open_] * _newton(change, rows, points, gain[:, 0], ball))[:, None]
        moved = moved.minimum(t.gather(1, down))
        now[open_] = t.scatter_add(1, up, moved).scatter_add(1, down, -moved)
        if bool((best[open_] > 0).any()):
            open_ = open_[~((best[open_] > 0) & some.proved(best_shares[open_], ball))]
            if not len(open_):
                break
    return Found(best_shares, largest, point)


def _minimise(cells: Cells, shares: Tensor, ball: Ball) -> tuple[Tensor, Tensor, Tensor]:
    """Return the functions sum_i t_i a_yi - a_jl, their minimisers, and all margins there."""
    rows = shares @ cells.own - cells.competing
    points = ball.minimiser(rows, _first(rows)).flatten(1)
    return rows, points, cells.margins(points)


def _first(rows: Tensor) -> Tensor:
    return torch.zeros(len(rows), dtype=torch.long, device=rows.device)


def _newton(change: Tensor, rows: Tensor, points: Tensor, gain: Tensor, ball: Ball) -> Tensor:
    """Return how far g is to go along rows + s change, to second order, (n,)."""
    moved = points - ball.centre
    free = (points > ball.lower) & (points < ball.upper) & (moved != 0)
    rows, change = rows * free, change * free
    size = rows.square().sum(dim=1).clamp_min(1e-30)
    # On the free coordinates, the minimiser is centre - scale * rows.
    scale = -(moved * rows).sum(dim=1) / size
    along = (change * rows).sum(dim=1).square() / size
    curvature = scale * (change.square().sum(dim=1) - along).clamp_min(0)
    return gain / curvature.clamp_min(1e-12)
