"""The proof by a global Lipschitz bound: a margin cannot vanish closer than margin / L."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.rounding.allowance import (
    LayerRounding,
    farthest,
    layer_rounding,
    margins_of,
)
from robustbench_dyn.lipschitz.bounds import pairwise_lipschitz
from robustbench_dyn.threat_models import Norm, ThreatModel

# Networks trained with cross-entropy have margins of 1 to 10: with a larger Lipschitz constant of a
# logit difference, the certified radii are of no use.
LARGEST_NONVACUOUS_BOUND = 30.0


class LipschitzState(NamedTuple):
    """A network with the L2 Lipschitz bounds of its logit differences, and how it rounds.

    bounds: (classes, classes) or (1, 1), which holds for all pairs.
    """

    bounds: Tensor
    rounding: LayerRounding


def class_radii(
    bounds: Tensor, margins: Tensor, y: Tensor, *, norm: Norm, dimension: int
) -> Tensor:
    """Return margin / L in `norm`, rounded down, for each class j.

    bounds: (classes, classes) or (1, 1), L2 Lipschitz bounds of F_i - F_j. margins: (batch,
    classes), F_y - F_j minus the allowance for rounding. y: (batch,). All j are needed, not the
    runner-up alone (arXiv 1802.04034, Section 4). An Linf ball of radius r / sqrt(dimension) and
    an L1 ball of radius r lie in the L2 ball of radius r. Returns (batch, classes), float64: inf
    for j = y, 0 for margins of at most 0, and a row of 0 for margins that are not numbers.
    """
    labels, n_classes = y.cpu(), margins.shape[1]
    lipschitz = bounds.expand(n_classes, n_classes)[labels]
    # A margin that cannot change (L = 0) never vanishes: its quotient is inf.
    radius = margins / lipschitz * (1.0 - 1e-12)
    if norm == "Linf":
        radius = radius / math.sqrt(dimension) * (1.0 - 1e-12)
    radius = radius.where(margins > 0, 0.0).scatter(1, labels[:, None], math.inf)
    return radius.where(~margins.isnan().any(dim=1, keepdim=True), 0.0)


def is_nonvacuous(bounds: Tensor) -> bool:
    """Say whether the bounds of all logit differences are small enough to prove something."""
    # Written so that NaN fails it.
    return bool((bounds <= LARGEST_NONVACUOUS_BOUND).all())


def prepare(model: nn.Module, *, strict_rounding: bool) -> LipschitzState:
    """Raise CertificateError where a part of model has no known bound."""
    bounds = pairwise_lipschitz(model)
    return LipschitzState(bounds, layer_rounding(model, strict=strict_rounding))


def prove(
    state: LipschitzState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
) -> Proof:
    """Return the radii of the global bound, for examples that are classified as y.

    Rounding is bounded no further than it matters, up to the radius of the nearest class or eps,
    whichever is larger: the worst case grows with the ball, and no class radius goes beyond it.
    """
    dimension, labels = math.prod(x.shape[1:]), y.cpu()
    margins = margins_of(logits, labels)
    # In L2.
    to_l2 = math.sqrt(dimension) if threat_model.norm == "Linf" else 1.0
    nearest = class_radii(state.bounds, margins, labels, norm="L2", dimension=dimension)
    needed = nearest.amin(dim=1).clamp_min(threat_model.eps * to_l2 * (1 + 1e-9))
    corner = farthest(x).cpu()
    reach = needed.minimum(corner)
    others = torch.ones_like(margins, dtype=torch.bool).scatter(1, labels[:, None], False)
    # Written so that NaN fails it.
    rows = ((margins > 0) | ~others).all(dim=1).nonzero().flatten()
    left = torch.zeros_like(margins)
    if len(rows):
        on_device = rows.to(x.device)
        allowance = state.rounding.allowance(
            x[on_device], logits[on_device], y[on_device], reach[rows]
        )
        left[rows] = margins[rows] - allowance
    norm = threat_model.norm
    radii = class_radii(state.bounds, left, labels, norm=norm, dimension=dimension)
    most = (needed / to_l2 * (1 - 1e-12)).where(needed < corner, math.inf)
    radii = radii.minimum(most[:, None]).scatter(1, labels[:, None], math.inf)
    # Only where the example would be certified without rounding.
    without = class_radii(state.bounds, margins, labels, norm=norm, dimension=dimension)
    would_be = without.amin(dim=1) >= threat_model.eps
    return Proof(radii, within_rounding=would_be & left.isneginf().any(dim=1))
