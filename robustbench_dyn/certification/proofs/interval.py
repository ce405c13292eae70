"""The proof by interval bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.back_substitution import objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import RelaxationState, interval_bounds
from robustbench_dyn.certification.objectives import (
    examples_with,
    least_per_example,
    proved_radii,
)
from robustbench_dyn.certification.proofs.relaxed_objectives import relaxed_objectives
from robustbench_dyn.threat_models import ThreatModel


@torch.no_grad()
def prove(
    state: RelaxationState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
) -> Proof:
    """Exclude each class whose margin stays above 0 by interval arithmetic.

    The maps after the last activation are bounded together with the difference of classes (Gowal
    et al., arXiv 1810.12715, Section 3: elision of the last layer).
    """
    ball = Ball(x, threat_model)
    bounds = interval_bounds(state, ball)
    objectives = relaxed_objectives(state, bounds, x, logits, y, threat_model)
    found = objective_bounds(
        state.exact,
        bounds,
        ball,
        objectives.coefficients,
        objectives.example,
        linear_bounds={},
    )
    allowance = objectives.allowance(found.rounding)
    radii = proved_radii(objectives.at(found.value > allowance), logits, y, threat_model.eps)
    return Proof(
        radii,
        within_rounding=examples_with(allowance.isinf(), objectives, len(x)),
        margins=least_per_example(found.value - allowance, objectives, len(x)),
    )
