"""The proof by branch and bound, or a counterexample."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import (
    RelaxationState,
    intermediate_bounds,
    interval_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.branch_and_bound.affine import Composition, compose
from robustbench_dyn.certification.branch_and_bound.search import BranchAndBound
from robustbench_dyn.certification.network.graph import Pointwise
from robustbench_dyn.certification.objectives import (
    examples_with,
    least_per_example,
    proved_radii,
)
from robustbench_dyn.certification.proofs.linear_relaxation import relaxed_margins
from robustbench_dyn.certification.proofs.relaxed_objectives import relaxed_objectives
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.threat_models import ThreatModel

# By how much a bound must exceed 0, for logits of size 1: more than the rounding of the composed
# maps.
_TOLERANCE = 1e-4


class BranchAndBoundState(NamedTuple):
    """A relaxed network with its affine maps composed."""

    relaxation: RelaxationState
    composition: Composition


def prepare(
    model: nn.Module, input_shape: tuple[int, ...], *, max_neurons: int
) -> BranchAndBoundState:
    """Raise CertificateError where a network has too many neurons, or others than ReLU."""
    relaxation = relaxation_state(model, input_shape)
    network = relaxation.exact
    for k in network.activations:
        node = network.nodes[k - 1]
        if isinstance(node, Pointwise) and not isinstance(node.activation, LeakyReLU):
            raise CertificateError(
                f"complete supports ReLU and leaky ReLU, not {type(node.activation).__name__}; "
                "choose linear_relaxation"
            )
    n_neurons = sum(math.prod(network.shape(k)) for k in network.activations)
    if n_neurons > max_neurons:
        raise CertificateError(
            f"the network has {n_neurons} neurons, and complete searches at most {max_neurons}; "
            "choose linear_relaxation"
        )
    return BranchAndBoundState(relaxation, compose(network))


@torch.no_grad()
def prove(
    state: BranchAndBoundState,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    seconds_per_example: float,
) -> Proof:
    """Exclude classes by the relaxation, and search for the smallest margin of each that is left.

    An example of which every class is excluded is certified; one where a margin falls below 0 has
    the point as a candidate; one that takes more than seconds_per_example stays open.
    """
    # The search runs on the CPU; small networks lose nothing there.
    bounds = interval_bounds(state.relaxation, Ball(x, threat_model))
    objectives = relaxed_objectives(state.relaxation, bounds, x, logits, y, threat_model)
    allowance = objectives.allowance(objectives.worst_case)
    lower_bound = relaxed_margins(state.relaxation, x, objectives, threat_model)
    candidates = x.clone()
    scale = logits.detach().double().abs().amax(dim=1).clamp_min(1.0).cpu()
    for example in torch.unique(objectives.example).tolist():
        rows = (objectives.example == example).nonzero().flatten()
        rows = rows[lower_bound[rows] <= 0]
        if not len(rows):
            continue
        # Search the class with the smallest lower bound first.
        rows = rows[lower_bound[rows].argsort()]
        proved, found = _search(
            state,
            x[example : example + 1],
            objectives.at(rows).coefficients,
            threat_model,
            allowance[rows] + _TOLERANCE * float(scale[example]),
            seconds_per_example,
        )
        lower_bound[rows[proved]] = torch.inf
        if found is not None:
            candidates[example] = found.to(candidates).view_as(candidates[example])
    radii = proved_radii(objectives.at(lower_bound > 0), logits, y, threat_model.eps)
    unproved = allowance.isinf() & (lower_bound <= 0)
    within_rounding = examples_with(unproved, objectives, len(x))
    return Proof(
        radii,
        candidates,
        within_rounding=within_rounding,
        margins=least_per_example(lower_bound, objectives, len(x)),
    )


def _search(
    state: BranchAndBoundState,
    x: Tensor,
    coefficients: Tensor,
    threat_model: ThreatModel,
    thresholds: Tensor,
    seconds: float,
) -> tuple[Tensor, Tensor | None]:
    """Say which of one example's objectives exceed their thresholds, and where one is negative."""
    until = time.monotonic() + seconds
    ball = Ball(x.cpu(), threat_model)
    bounds, _ = intermediate_bounds(state.relaxation, ball)
    search = BranchAndBound(state.relaxation.exact, state.composition, bounds, ball)
    proved = torch.zeros(len(coefficients), dtype=torch.bool, device=coefficients.device)
    for k, objective in enumerate(coefficients.cpu()):
        left = until - time.monotonic()
        if left <= 0:
            break
        threshold = float(thresholds[k])
        if threshold == math.inf:
            # Rounding forbids a proof, but not a counterexample.
            result = search.prove_above(objective, 0.0, seconds=left)
            return proved, None if result.proved else result.x
        result = search.prove_above(objective, threshold, seconds=left)
        if not result.proved:
            # One class that is not excluded leaves the example open.
            return proved, result.x
        proved[k] = True
    return proved, None
