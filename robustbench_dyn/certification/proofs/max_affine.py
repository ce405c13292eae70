"""The proof by pairs of affine pieces: no competing one overtakes one of the label's within r.

Let the logits be F_c(x) = max_k a_ck(phi(x)), a_ck affine of slope w_ck, phi L-Lipschitz. For any
piece i of the label and any class j, F_y - F_j >= min_l (a_yi - a_jl), and each difference falls by
at most L |w_yi - w_jl| times the distance (for nearest prototypes: Voracek & Hein, ICML 2022, arXiv
2207.07208). Where phi is the identity, the dual norms of the differences give radii in Linf and L1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.proofs.affine_pieces import PiecesState, Rounded
from robustbench_dyn.certification.rounding.allowance import (
    FACTOR,
    farthest,
    margins_of,
    usual_rounding,
)
from robustbench_dyn.threat_models import Norm, ThreatModel

# Numbers of a block.
_BLOCK = 400_000


@torch.no_grad()
def prove(
    state: PiecesState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
) -> Proof:
    """Return radii that hold at any eps, for examples that are classified as y."""
    norm, dimension = threat_model.norm, math.prod(x.shape[1:])
    # To know within which reach the rounding is to be bounded: no further than a radius can be.
    corner = farthest(x)
    found = state.rounded(x, logits, torch.zeros_like(corner))
    found = state.rounded(x, logits, _longest(state, found, y, norm, dimension).minimum(corner))
    radii = pairwise_radii(state, found, logits, y, norm, dimension).cpu()
    others = logits.shape[1] - 1
    predicted = (margins_of(logits, y) > 0).sum(dim=1) == others
    proved = (radii > 0).all(dim=1)
    return Proof(radii, within_rounding=predicted & ~proved)


def _longest(state: PiecesState, found: Rounded, y: Tensor, norm: Norm, dimension: int) -> Tensor:
    """Return the L2 length of the largest radius that pairs of pieces could give, (batch,).

    A class's largest piece at x is one of those that its radius is the least of.
    """
    own_norm: Norm = norm if state.split.on_inputs else "L2"
    n_classes, n_pieces = found.values.shape[1:]
    largest, within = found.values.max(dim=2)
    within = within + n_pieces * torch.arange(n_classes, device=within.device)
    longest = torch.zeros_like(found.feature_error)
    for label in torch.unique(y).tolist():
        rows = (y == label).nonzero().flatten()
        between = state.lipschitz * state.distances(own_norm, label)
        # (n, classes, pieces of the label)
        margins = found.values[rows, label][:, None, :] - largest[rows][:, :, None]
        radii = margins / between.T[within[rows]]
        radii[:, label] = 0.0
        longest[rows] = radii.nan_to_num(nan=math.inf).flatten(1).amax(dim=1)
    if own_norm == norm == "Linf":
        longest = longest * math.sqrt(dimension)
    return longest * (1 + 1e-9)


def pairwise_radii(
    state: PiecesState, found: Rounded, logits: Tensor, y: Tensor, norm: Norm, dimension: int
) -> Tensor:
    """Return the radius against each class, (batch, classes) float64, rounded down.

    inf for the label; 0 where nothing is proved, as where the logits are not the maxima of the
    pieces.
    """
    own_norm: Norm = norm if state.split.on_inputs else "L2"
    usual = usual_rounding(logits).to(found.values)
    radii = torch.zeros_like(found.observed)
    n_classes, n_pieces = found.values.shape[1:]
    size = max(1, _BLOCK // (n_classes * n_pieces**2))
    for label in torch.unique(y).tolist():
        distances = state.distances(own_norm, label)
        for rows in (y == label).nonzero().flatten().split(size):
            radii[rows] = _of_label(state, found.at(rows), usual[rows], distances, label)
    if own_norm != norm and norm == "Linf":
        radii = radii / math.sqrt(dimension) * (1.0 - 1e-12)
    sound = found.consistent & logits.isfinite().all(dim=1)
    return radii.where(sound[:, None], 0.0).scatter(1, y[:, None], math.inf)


def _of_label(
    state: PiecesState, found: Rounded, usual: Tensor, distances: Tensor, label: int
) -> Tensor:
    """Return the radii of examples of one label, (n, classes); what the label's own is, is unused.

    usual: (n, 1). distances: (pieces, classes * pieces).
    """
    n, n_classes, n_pieces = found.values.shape
    between = distances.view(1, n_pieces, n_classes, n_pieces)
    own, competing = found.values[:, label, :, None, None], found.values[:, None]
    # The margin less its worst case, (n, pieces of the label, classes, pieces).
    own_least, competing_most = (
        own - found.errors[:, label, :, None, None],
        competing + found.errors[:, None],
    )
    left = own_least - competing_most
    if not state.split.on_inputs:
        left -= found.feature_error.view(-1, 1, 1, 1) * between
    if not state.strict:
        observed = found.observed + found.observed[:, label, None]
        measured = torch.maximum(FACTOR * observed, usual).view(n, 1, n_classes, 1)
        less = (own - competing - measured).maximum(left) - observed.view(n, 1, n_classes, 1)
        left = less.where(left > 0, 0.0)
    # A margin that cannot change (distance 0) never vanishes.
    radii = (left.div_(between)).amin(dim=3).amax(dim=1)
    # Written so that NaN proves nothing.
    return (radii / state.lipschitz * (1.0 - 1e-12)).where(radii > 0, 0.0)
