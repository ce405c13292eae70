"""The exact certificate of maxima of affine pieces of the input: a convex program for each piece.

Class j overtakes y within a ball B where, for one of its pieces l, some x' in B has a_jl(x') >=
a_yi(x') for all pieces i of y. By duality none does if and only if the greatest value of

    g(t) = min over x' in B of sum_i t_i a_yi(x') - a_jl(x'),    t >= 0, sum_i t_i = 1,

is above 0: a convex quadratic program in L2, a linear one in Linf and L1 (for nearest prototypes,
without the box [0, 1]: Voracek & Hein, ICML 2022, arXiv 2207.07208). Any t proves a bound, which is
evaluated anew in float64, so that the search for t need not be exact. A point x' that minimises the
largest a_yi - a_jl is a candidate for an adversarial example.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor
from torch.nn import functional as F

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.proofs.affine_pieces import (
    PiecesState,
    Rounded,
    dual_exponent,
    farthest,
)
from robustbench_dyn.certification.proofs.max_affine import pairwise_radii
from robustbench_dyn.certification.rounding.allowance import margins_of
from robustbench_dyn.threat_models import ThreatModel

_UNIT = 2.0**-53
# Of the rivals' pieces that are tried together.
_AT_FIRST, _AT_ONCE = 8, 256
# Of the label's pieces in a linear program: at first, and each time that others are larger.
_ROWS, _MOST_ROUNDS = 24, 20


class Cells(NamedTuple):
    """The label's pieces, (pieces, inputs), and those of rivals, (n, inputs), with their biases.

    The network's rounding is in the biases: less for the label's, more for the rivals'. certain: a
    margin below it is negative in the network as well.
    """

    own: Tensor
    own_bias: Tensor
    rival: Tensor
    rival_bias: Tensor
    certain: float

    def at(self, rows: Tensor) -> Cells:
        """Return some of the rivals' pieces."""
        return self._replace(rival=self.rival[rows], rival_bias=self.rival_bias[rows])

    def margins(self, points: Tensor) -> Tensor:
        """Return a_yi - a_jl at a point for each rival's piece, (n, pieces of the label)."""
        rivals = (points * self.rival).sum(dim=1) + self.rival_bias
        return points @ self.own.T + self.own_bias - rivals[:, None]

    def proved(self, shares: Tensor, ball: Ball) -> Tensor:
        """Say whether g is above 0 at shares, (n, pieces of the label): (n,) bool."""
        rows = shares @ self.own - self.rival
        value = ball.minimum(rows, _first(rows)) + shares @ self.own_bias - self.rival_bias
        # The sums over shares, which add up to 1 up to their own rounding; inputs are in [0, 1].
        largest = self.own.abs().sum(dim=1).amax() + self.own_bias.abs().amax()
        size = largest + self.rival.abs().sum(dim=1) + self.rival_bias.abs()
        return value > 4 * (self.own.shape[0] + 16) * _UNIT * size


class Found(NamedTuple):
    """Shares of the label's pieces, (n, pieces), and the point of the least largest margin seen.

    largest: that margin; where it is at most 0, no shares can prove the rival's piece.
    """

    shares: Tensor
    largest: float
    point: Tensor


@torch.no_grad()
def prove(
    state: PiecesState,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    n_steps: int,
) -> Proof:
    """Exclude classes from one ball, or return a candidate where one can not be excluded."""
    dimension = math.prod(x.shape[1:])
    wide = threat_model.eps * (math.sqrt(dimension) if threat_model.norm == "Linf" else 1.0)
    found = state.rounded(x, logits, farthest(x).clamp_max(wide * (1 + 1e-9)))
    pairwise = pairwise_radii(state, found, logits, y, threat_model.norm, dimension)
    radii, candidates = (pairwise >= threat_model.eps).double() * threat_model.eps, x.clone()
    predicted = (margins_of(logits, y) > 0).sum(dim=1) == logits.shape[1] - 1
    within_rounding = predicted & ~found.consistent.cpu()
    for k in (predicted & ~within_rounding).nonzero().flatten().tolist():
        left = (radii[k] == 0).scatter(0, y[k], False).nonzero().flatten()
        if not len(left):
            continue
        cells = _cells(state, found, k, int(y[k]), left)
        ball = Ball(x[k : k + 1], threat_model)
        lost = _exclude(cells, ball, n_steps)
        if lost is None:
            radii[k, left] = threat_model.eps
        else:
            candidates[k] = lost.point.view_as(x[k])
            within_rounding[k] = cells.certain < lost.largest <= 0
    radii = radii.scatter(1, y[:, None], math.inf)
    return Proof(radii.cpu(), candidates=candidates, within_rounding=within_rounding)


def _cells(state: PiecesState, found: Rounded, k: int, label: int, rivals: Tensor) -> Cells:
    """Return the pieces of an example's label, and all those of some rivals."""
    weight, bias = state.split.pieces
    errors = found.errors[k]
    return Cells(
        weight[label],
        bias[label] - errors[label],
        weight[rivals].flatten(0, 1),
        (bias[rivals] + errors[rivals]).flatten(),
        -4 * float(errors.max()),
    )


def _exclude(cells: Cells, ball: Ball, n_steps: int) -> Found | None:
    """Return None where none of the rivals' pieces overtakes the label's, or else a candidate."""
    margins = cells.margins(ball.centre.expand(len(cells.rival), -1))
    distances = torch.cdist(cells.rival, cells.own, p=dual_exponent(ball.norm))
    quotients, alone = (margins / distances.clamp_min(1e-30)).max(dim=1)
    # The nearest ones first, few at a time: one of them may be lost.
    order = quotients.argsort()
    cells, shares = cells.at(order), F.one_hot(alone[order], len(cells.own)).double()
    lost: Found | None = None
    start, size = 0, _AT_FIRST
    while start < len(order):
        rows = torch.arange(start, min(start + size, len(order)), device=order.device)
        lost = _nearer(lost, _block(cells.at(rows), shares[rows], ball, n_steps))
        if lost is not None and not cells.certain <= lost.largest <= 0:
            return lost
        start, size = start + size, _AT_ONCE
    return lost


def _nearer(one: Found | None, other: Found | None) -> Found | None:
    if one is None or other is None:
        return one or other
    return one if one.largest <= other.largest else other


def _block(cells: Cells, shares: Tensor, ball: Ball, n_steps: int) -> Found | None:
    """Do what _exclude does, for some of the rivals' pieces."""
    lost: Found | None = None
    cells, shares = _left(cells, shares, ball)
    while len(cells.rival) and (lost is None or lost.largest >= cells.certain):
        if ball.norm == "L2":
            n, found = len(cells.rival), ascend(cells, shares, ball, n_steps)
        else:
            n, found = 1, program(cells.at(torch.arange(1)), ball)
        if not bool(cells.at(torch.arange(n)).proved(found.shares, ball).all()):
            lost = _nearer(lost, found)
        # Neighbouring pieces are often excluded by the same shares.
        rest = torch.arange(n, len(cells.rival))
        same = found.shares[-1:].expand(len(rest), -1)
        cells, shares = _left(cells.at(rest), same, ball)
    return lost


def _left(cells: Cells, shares: Tensor, ball: Ball) -> tuple[Cells, Tensor]:
    """Return the rivals' pieces that shares do not exclude, with these shares."""
    if not len(shares):
        return cells, shares
    left = (~cells.proved(shares, ball)).nonzero().flatten()
    return cells.at(left), shares[left]


def program(cells: Cells, ball: Ball) -> Found:
    """Minimise the largest a_yi - a_jl for one rival's piece, in Linf and L1: a linear program.

    Its dual variables are the shares. It has rows for the label's pieces that are largest at a
    solution without them.
    """
    slopes = (cells.own - cells.rival).numpy()
    centre, d = ball.centre[0].numpy(), len(ball.centre[0])
    at_centre = slopes @ centre + (cells.own_bias - cells.rival_bias).numpy()
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
    """Increase g in L2 for each rival's piece, by moving shares between two of the label's pieces.

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
    rows = shares @ cells.own - cells.rival
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
