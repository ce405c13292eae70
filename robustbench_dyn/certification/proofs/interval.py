"""The proof by interval bounds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.back_substitution import objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import RelaxationState, interval_bounds
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.objectives import (
    Objectives,
    examples_with,
    least_per_example,
    margin_objectives,
    proved_radii,
)
from robustbench_dyn.certification.proofs.relaxed_objectives import measured
from robustbench_dyn.threat_models import ThreatModel

# Where a bound is below 0 by more than this part of the margin, it is not rounding that prevents a
# proof: neither that of the model nor that of the bound.
_FAR = 0.5


class IntervalMargins(NamedTuple):
    """What intervals say of the objectives of a batch.

    lower_bound: (n,), of the margins as the network computes them; -inf where rounding forbids a
    proof. near: (batch,), where rounding may matter; elsewhere it is neither measured in the
    objectives nor subtracted from the bounds, which are far below 0. bounds: of every output.
    """

    objectives: Objectives
    lower_bound: Tensor
    near: Tensor
    bounds: Bounds


@torch.no_grad()
def prove(
    state: RelaxationState, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
) -> Proof:
    """Exclude each class whose margin stays above 0 by interval arithmetic.

    The maps after the last activation are bounded together with the difference of classes (Gowal
    et al., arXiv 1810.12715, Section 3: elision of the last layer). Intervals in the fast dtype,
    which its rounding widens, come first; those in float64 decide what they leave near 0.
    """
    found = interval_margins(state, x, logits, y, threat_model, fast=True)
    objectives, lower_bound = found.objectives, found.lower_bound
    undecided = found.near & ~(least_per_example(lower_bound, objectives, len(x)) > 0)
    if state.fast is not state.exact and undecided.any():
        again = interval_margins(
            state, x[undecided], logits[undecided], y[undecided], threat_model, fast=False
        )
        lower_bound[undecided[objectives.example]] = again.lower_bound
    radii = proved_radii(objectives.at(lower_bound > 0), logits, y, threat_model.eps)
    rounded = lower_bound.isneginf() & found.near[objectives.example]
    return Proof(
        radii,
        within_rounding=examples_with(rounded, objectives, len(x)),
        margins=least_per_example(lower_bound, objectives, len(x)),
    )


def interval_margins(
    state: RelaxationState,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    fast: bool,
    strict: bool = True,
) -> IntervalMargins:
    """Bound the margins of all examples that are classified as y.

    fast: in the fast dtype; its rounding is part of the bounds. strict: of Objectives.allowance.
    """
    ball = Ball(x, threat_model)
    bounds = interval_bounds(state, ball, fast=fast)
    objectives = margin_objectives(x, logits, y)
    found = objective_bounds(
        state.fast if fast else state.exact,
        bounds,
        ball,
        objectives.coefficients,
        objectives.example,
        linear_bounds={},
    )
    lower_bound = found.value
    # Written so that NaN counts as near.
    near = ~(least_per_example(lower_bound + _FAR * objectives.margin, objectives, len(x)) < 0)
    rows = near[objectives.example]
    objectives = measured(objectives, rows, state, bounds, x, logits, y, threat_model)
    allowance = objectives.allowance(found.rounding, strict=strict)
    lower_bound = torch.where(rows, lower_bound - allowance, lower_bound)
    return IntervalMargins(objectives, lower_bound, near, bounds)
