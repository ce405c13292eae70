"""The proof by a global Lipschitz bound from the middle of an Linf ball within [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.proofs.lipschitz import LipschitzState
from robustbench_dyn.certification.rounding.allowance import margins_of
from robustbench_dyn.models.forward import call_without_graph
from robustbench_dyn.threat_models import ThreatModel


@torch.no_grad()
def prove(
    state: LipschitzState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
) -> Proof:
    """Exclude each class whose margin at the middle of the box is above L times its half diagonal.

    An Linf ball of radius eps within [0, 1] is a box. A pixel at 0 can only grow, so the box is
    nearer to its own middle than to x: a half diagonal of eps sqrt(d) / 2 where all pixels are 0
    or 1, and of eps sqrt(d) where none is within eps of them.
    """
    ball = Ball(x, threat_model)
    middle = ((ball.lower + ball.upper) / 2).view_as(x).to(x.dtype)
    # From the rounded middle.
    centre = middle.double().flatten(1)
    half = torch.maximum(ball.upper - centre, centre - ball.lower)
    reach = half.norm(dim=1).cpu() * (1.0 + (half.shape[1] + 8) * 2.0**-52)
    n_classes, labels = logits.shape[1], y.cpu()
    at_middle = call_without_graph(state.rounding.model, middle)
    needed = state.bounds.expand(n_classes, n_classes)[labels] * reach[:, None] * (1.0 + 1e-12)
    margins = margins_of(at_middle, labels)
    excluded, above = margins > needed, margins - needed
    others = torch.ones_like(excluded).scatter(1, labels[:, None], False)
    rows = (excluded & others).any(dim=1).nonzero().flatten()
    within_rounding = torch.zeros(len(x), dtype=torch.bool)
    if len(rows):
        on_device = rows.to(x.device)
        allowance = state.rounding.allowance(
            middle[on_device], at_middle[on_device], y[on_device], reach[rows]
        )
        within_rounding[rows] = (allowance.isinf() & excluded[rows]).any(dim=1)
        excluded[rows] = margins[rows] - allowance > needed[rows]
        above[rows] -= allowance
    radii = excluded.double() * threat_model.eps
    radii = radii.scatter(1, labels[:, None], math.inf)
    return Proof(
        radii,
        forward_passes=len(x),
        within_rounding=within_rounding,
        margins=above.scatter(1, labels[:, None], math.inf).amin(dim=1),
    )
