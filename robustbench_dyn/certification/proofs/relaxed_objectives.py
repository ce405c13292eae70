"""The objectives of a batch, with the rounding of a network that is relaxed."""

from __future__ import annotations

from torch import Tensor

from robustbench_dyn.certification.bounds.intermediate import RelaxationState
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.objectives import Objectives, margin_objectives, with_rounding
from robustbench_dyn.threat_models import ThreatModel


def relaxed_objectives(
    state: RelaxationState,
    bounds: Bounds,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
) -> Objectives:
    """Return the objectives of all examples that are classified as y; bounds: over their balls."""
    return with_rounding(
        margin_objectives(x, logits, y),
        state.model,
        state.exact,
        bounds.errors[-1],
        x,
        logits,
        y,
        threat_model,
    )
