"""The certificate of interval bounds: the cheapest look at the ball, and the widest."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.back_substitution import difference_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    Relaxed,
    interval_bounds,
)
from robustbench_dyn.certification.objectives import (
    compared,
    examples_among,
    pairs_to_prove,
    radii_of,
)
from robustbench_dyn.threat_models import ThreatModel


@torch.no_grad()
def prove(
    relaxed: Relaxed, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
) -> Proof:
    """Exclude each rival whose difference to the label stays above 0 by interval arithmetic.

    The maps after the last activation are bounded together with the difference of classes (Gowal
    et al., arXiv 1810.12715, Section 3: elision of the last layer).
    """
    ball = Ball(x, threat_model)
    bounds = interval_bounds(relaxed, ball)
    pairs = pairs_to_prove(x, logits, y)
    pairs = compared(pairs, relaxed, bounds, x, logits, y, threat_model)
    least, rounding = difference_bounds(
        relaxed.exact, bounds, ball, pairs.differences, pairs.example, lines={}
    )
    allowed = pairs.allowed(rounding)
    radii = radii_of(pairs.at(least > allowed), logits, y, threat_model.eps)
    return Proof(radii, within_rounding=examples_among(allowed.isinf(), pairs, len(x)))
