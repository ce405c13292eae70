"""The proof by branch and bound over the input, or a counterexample."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    RelaxationState,
    interval_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.branch_and_bound.input_splitting import search_inputs
from robustbench_dyn.certification.objectives import examples_with, proved_radii
from robustbench_dyn.certification.proofs.relaxed_objectives import relaxed_objectives
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.threat_models import ThreatModel

# The number of parts grows with every input, as that of a grid's points near a boundary does: up to
# the second number, no other search is as fast.
MOST_INPUTS, FEW_INPUTS = 4, 2


class InputSplittingState(NamedTuple):
    """A relaxed network, and the seconds that its searches took so far, by threat model."""

    relaxation: RelaxationState
    spent: defaultdict[ThreatModel, float]


def supports(input_shape: tuple[int, ...]) -> bool:
    """Say whether inputs are few enough to be split."""
    return math.prod(input_shape) <= MOST_INPUTS


def prefers(input_shape: tuple[int, ...]) -> bool:
    """Say whether inputs are so few that no other search is as fast."""
    return math.prod(input_shape) <= FEW_INPUTS


def prepare(model: nn.Module, input_shape: tuple[int, ...]) -> InputSplittingState:
    """Raise CertificateError for too many inputs, and for an operation that has no handler."""
    if not supports(input_shape):
        raise CertificateError(
            f"complete splits at most {MOST_INPUTS} inputs, and the network has "
            f"{math.prod(input_shape)}; choose split=neurons"
        )
    return InputSplittingState(relaxation_state(model, input_shape), defaultdict(float))


@torch.no_grad()
def prove(
    state: InputSplittingState,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    seconds_per_example: float,
    seconds: float,
) -> Proof:
    """Search the balls of all examples together, each for all classes.

    An example with an input that refutes a margin has it as a candidate; one that takes more than
    seconds_per_example stays open, and so do all others once the searches with this state took
    `seconds` at this eps.
    """
    relaxation = state.relaxation
    bounds = interval_bounds(relaxation, Ball(x, threat_model))
    objectives = relaxed_objectives(relaxation, bounds, x, logits, y, threat_model)
    forbidden = objectives.observed.isinf()
    proved = torch.zeros_like(forbidden)
    found = search_inputs(
        relaxation,
        x,
        objectives.at(~forbidden),
        threat_model,
        seconds_per_example=seconds_per_example,
        seconds=seconds - state.spent[threat_model],
    )
    state.spent[threat_model] += found.seconds
    proved[~forbidden] = found.proved
    rounded = forbidden | found.within_rounding[objectives.example.cpu()].to(forbidden.device)
    return Proof(
        proved_radii(objectives.at(proved), logits, y, threat_model.eps),
        found.x,
        within_rounding=examples_with(rounded & ~proved, objectives, len(x)),
        gave_up=found.gave_up,
    )
