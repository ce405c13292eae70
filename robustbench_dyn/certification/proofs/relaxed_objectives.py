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
    return measured(
        margin_objectives(x, logits, y), slice(None), state, bounds, x, logits, y, threat_model
    )


def measured(
    objectives: Objectives,
    rows: Tensor | slice,
    state: RelaxationState,
    bounds: Bounds,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
) -> Objectives:
    """Return objectives with the rounding of some of them, rows, which takes two passes each."""
    found = with_rounding(
        objectives.at(rows),
        state.model,
        state.exact,
        bounds.errors[-1].double(),
        x,
        logits,
        y,
        threat_model,
    )
    return objectives.replaced(rows, found)
