"""The proof by linear relaxation: every activation lies between two lines."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.alpha_crown import optimised_bounds
from robustbench_dyn.certification.bounds.back_substitution import LowerBounds, objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.budgets import BUDGET, N_ITERATIONS
from robustbench_dyn.certification.bounds.first_pass import estimated_bounds
from robustbench_dyn.certification.bounds.intermediate import (
    RelaxationState,
    intermediate_bounds,
)
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.objectives import (
    Objectives,
    examples_with,
    least_per_example,
    proved_radii,
)
from robustbench_dyn.certification.proofs.interval import interval_margins
from robustbench_dyn.certification.proofs.relaxed_objectives import measured
from robustbench_dyn.threat_models import ThreatModel

# Slopes are optimised where the bound is below 0 by at most this many times the margin; those
# behind intermediate bounds, which cost more and gain less, where it is by the second number.
_WITHIN_REACH, _CLOSE = 1.0, 0.3


@torch.no_grad()
def prove(
    state: RelaxationState,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    n_iterations: int,
    budget: int,
) -> Proof:
    """Exclude each class whose margin stays above 0 by a linear relaxation.

    Each step is more expensive, and is applied to what the ones before left open: intervals; a
    first pass over a sample of the neurons, for the competing class of the least margin, which
    leaves the examples within reach of a proof; back-substitution with the initial slopes, over
    intermediate bounds that are tightened the same way; slopes optimised for each objective; slopes
    optimised for the intermediate bounds, too.
    """
    by_intervals = interval_margins(
        state, x, logits, y, threat_model, fast=True, strict=state.strict
    )
    objectives, lower_bound, near, bounds = by_intervals
    unproved = ~(least_per_example(lower_bound, objectives, len(x)) > 0)
    pursued = torch.zeros_like(unproved)
    # Some operations of torch give a wrong shape for no example.
    if unproved.any():
        pursued[unproved] = _within_reach(
            state, x, bounds, objectives, threat_model, unproved, budget
        )
    left = pursued[objectives.example]
    missing = left & ~near[objectives.example]
    objectives = measured(objectives, missing, state, bounds, x, logits, y, threat_model)
    relaxed = relaxed_margins(
        state,
        x,
        objectives.at(left),
        threat_model,
        n_iterations=n_iterations,
        budget=budget,
    )
    lower_bound[left] = relaxed.fmax(lower_bound[left])
    radii = proved_radii(objectives.at(lower_bound > 0), logits, y, threat_model.eps)
    # Where bounds are out of reach of a proof, it is not rounding that prevents one.
    rounded = lower_bound.isneginf() & (near | pursued)[objectives.example]
    within_rounding = examples_with(rounded, objectives, len(x))
    margins = least_per_example(lower_bound, objectives, len(x))
    return Proof(radii, within_rounding=within_rounding, margins=margins)


def _within_reach(
    state: RelaxationState,
    x: Tensor,
    bounds: Bounds,
    objectives: Objectives,
    threat_model: ThreatModel,
    examples: Tensor,
    budget: int,
) -> Tensor:
    """Say which of some examples, a mask, come near enough to a proof to be relaxed in full."""
    least = least_per_example(objectives.margin, objectives, len(x))
    (closest,) = (objectives.margin == least[objectives.example]).nonzero(as_tuple=True)
    # One objective an example, of those that share the least margin.
    one = closest.new_zeros(len(x)).index_put((objectives.example[closest],), closest)[examples]
    estimate = estimated_bounds(
        state,
        Ball(x[examples], threat_model),
        bounds.at(examples),
        x[examples],
        objectives.coefficients[one],
        budget=budget,
    )
    return estimate > -_WITHIN_REACH * objectives.margin[one]


def _as_computed(found: LowerBounds, state: RelaxationState, objectives: Objectives) -> Tensor:
    """Bound margins as the network computes them, (n,); -inf where rounding forbids a proof."""
    return found.value - objectives.allowance(found.rounding, strict=state.strict)


def relaxed_margins(
    state: RelaxationState,
    x: Tensor,
    objectives: Objectives,
    threat_model: ThreatModel,
    *,
    n_iterations: int = N_ITERATIONS,
    budget: int = BUDGET,
) -> Tensor:
    """Return lower bounds of the objectives over the ball, (n,), float64.

    They are bounds of what the network computes: the allowance for rounding is subtracted.
    n_iterations: steps of ascent on slopes; 0 keeps the initial ones. budget: of
    intermediate_bounds.
    """
    examples, owners = torch.unique(objectives.example, return_inverse=True)
    if not len(examples):
        return objectives.coefficients.new_zeros(0)
    at_x = state.exact.outputs(x[examples].double())[-1]
    margins = (objectives.coefficients * at_x[owners]).sum(dim=1)
    lower_bound = _relax(state, x, objectives, threat_model, margins, n_iterations, budget)
    todo = _open(lower_bound, objectives, _CLOSE * margins, len(x))
    if n_iterations and todo.any():
        better = _relax(
            state,
            x,
            objectives.at(todo),
            threat_model,
            margins[todo],
            2 * n_iterations,
            budget,
            n_intermediate=n_iterations,
        )
        lower_bound[todo] = lower_bound[todo].maximum(better)
    return lower_bound


def _relax(
    state: RelaxationState,
    x: Tensor,
    objectives: Objectives,
    threat_model: ThreatModel,
    margins: Tensor,
    n_iterations: int,
    budget: int,
    *,
    n_intermediate: int = 0,
) -> Tensor:
    """Bound the objectives; n_intermediate: steps of ascent for the intermediate bounds."""
    examples, owners = torch.unique(objectives.example, return_inverse=True)
    ball = Ball(x[examples], threat_model)
    bounds, linear_bounds = intermediate_bounds(
        state, ball, budget=budget, n_iterations=n_intermediate
    )
    found = objective_bounds(
        state.exact, bounds, ball, objectives.coefficients, owners, linear_bounds=linear_bounds
    )
    lower_bound = _as_computed(found, state, objectives)
    if linear_bounds and n_iterations:
        todo = _open(lower_bound, objectives, _WITHIN_REACH * margins, len(x))
        todo = todo.nonzero().flatten()
        # Searched in the fast dtype, and proved in float64.
        better = optimised_bounds(
            state.fast,
            state.exact,
            bounds,
            ball,
            len(state.exact.nodes),
            objectives.coefficients[todo],
            owners[todo],
            linear_bounds,
            n_iterations=n_iterations,
        )
        better_bound = _as_computed(better, state, objectives.at(todo))
        lower_bound[todo] = lower_bound[todo].maximum(better_bound)
    return lower_bound


def _open(lower_bound: Tensor, objectives: Objectives, reach: Tensor, n: int) -> Tensor:
    """Say which objectives are unproved, of examples whose objectives lack at most reach, (n,)."""
    smallest = least_per_example(lower_bound + reach, objectives, n)
    return (lower_bound <= 0) & (smallest[objectives.example] > 0)
