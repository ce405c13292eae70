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

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.proofs.affine_pieces import (
    PiecesState,
    Rounded,
    dual_exponent,
)
from robustbench_dyn.certification.proofs.max_affine import pairwise_radii
from robustbench_dyn.certification.proofs.piece_programs import Cells, Found, ascend, program
from robustbench_dyn.certification.rounding.allowance import farthest, margins_of
from robustbench_dyn.threat_models import ThreatModel

# Of the competing pieces that are tried together.
_AT_FIRST, _AT_ONCE = 8, 256


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


def _cells(state: PiecesState, found: Rounded, k: int, label: int, competing: Tensor) -> Cells:
    """Return the pieces of an example's label, and all those of competing classes."""
    weight, bias = state.split.pieces
    errors = found.errors[k]
    return Cells(
        weight[label],
        bias[label] - errors[label],
        weight[competing].flatten(0, 1),
        (bias[competing] + errors[competing]).flatten(),
        -4 * float(errors.max()),
    )


def _exclude(cells: Cells, ball: Ball, n_steps: int) -> Found | None:
    """Return None where none of the competing pieces overtakes the label's, or else a candidate."""
    margins = cells.margins(ball.centre.expand(len(cells.competing), -1))
    distances = torch.cdist(cells.competing, cells.own, p=dual_exponent(ball.norm))
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
    """Do what _exclude does, for some of the competing pieces."""
    lost: Found | None = None
    cells, shares = _left(cells, shares, ball)
    while len(cells.competing) and (lost is None or lost.largest >= cells.certain):
        if ball.norm == "L2":
            n, found = len(cells.competing), ascend(cells, shares, ball, n_steps)
        else:
            n, found = 1, program(cells.at(torch.arange(1)), ball)
        if not bool(cells.at(torch.arange(n)).proved(found.shares, ball).all()):
            lost = _nearer(lost, found)
        # Neighbouring pieces are often excluded by the same shares.
        rest = torch.arange(n, len(cells.competing))
        same = found.shares[-1:].expand(len(rest), -1)
        cells, shares = _left(cells.at(rest), same, ball)
    return lost


def _left(cells: Cells, shares: Tensor, ball: Ball) -> tuple[Cells, Tensor]:
    """Return the competing pieces that shares do not exclude, with these shares."""
    if not len(shares):
        return cells, shares
    left = (~cells.proved(shares, ball)).nonzero().flatten()
    return cells.at(left), shares[left]
