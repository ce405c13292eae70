"""The certificate of a linear relaxation: every activation lies between two lines."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.bounds.alpha_crown import optimised_bounds
from robustbench_dyn.certification.bounds.back_substitution import Least, difference_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.budgets import BUDGET, N_ITERATIONS
from robustbench_dyn.certification.bounds.intermediate import (
    Relaxed,
    interval_bounds,
    relaxed_bounds,
)
from robustbench_dyn.certification.objectives import (
    Pairs,
    compared,
    examples_among,
    pairs_to_prove,
    radii_of,
)
from robustbench_dyn.threat_models import ThreatModel

# Where intervals are wider than this many times the logits, no line makes up for it.
_HOPELESS = 1e4
# Slopes are searched where the bound is below 0 by at most this many times the margin; those
# behind the bounds of the values between, which cost more and gain less, where it is by this much.
_WITHIN_REACH, _AT_HAND = 1.0, 0.21


@torch.no_grad()
def prove(
    relaxed: Relaxed,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    n_iterations: int,
    budget: int,
) -> Proof:
    """Exclude each rival whose difference to the label is above 0 by a linear relaxation.

    Dearer means only for what is left: intervals; back-substitution with fixed slopes, over
    bounds that are tightened the same way; then slopes of their own for each example and rival;
    then slopes of their own for the bounds between, too.
    """
    ball = Ball(x, threat_model)
    bounds = interval_bounds(relaxed, ball)
    pairs = pairs_to_prove(x, logits, y)
    pairs = compared(pairs, relaxed, bounds, x, logits, y, threat_model)
    by_intervals = difference_bounds(
        relaxed.exact, bounds, ball, pairs.differences, pairs.example, lines={}
    )
    least = _computed(by_intervals, relaxed, pairs)
    scale = logits.detach().double().abs().amax(dim=1).clamp_min(1.0)[pairs.example]
    worst = _by_example((by_intervals.value / scale).minimum(least), pairs, len(x))
    left = ((worst <= 0) & (worst.isinf() | (worst > -_HOPELESS)))[pairs.example]
    better = relaxed_differences(
        relaxed, x, pairs.at(left), threat_model, n_iterations=n_iterations, budget=budget
    )
    least[left] = better.maximum(least[left])
    radii = radii_of(pairs.at(least > 0), logits, y, threat_model.eps)
    return Proof(radii, within_rounding=examples_among(least.isneginf(), pairs, len(x)))


def _computed(least: Least, relaxed: Relaxed, pairs: Pairs) -> Tensor:
    """Bound differences as the network computes them, (n,); -inf where rounding forbids a proof."""
    return least.value - pairs.allowed(least.rounding, strict=relaxed.strict)


def relaxed_differences(
    relaxed: Relaxed, x: Tensor, pairs: Pairs, threat_model: ThreatModel,
    *, n_iterations: int = N_ITERATIONS, budget: int = BUDGET,
) -> Tensor:  # fmt: skip
    """Return lower bounds of the pairs' differences over the ball, (n,), float64.

    They are bounds of what the network computes: what rounding may take off them is taken off.
    n_iterations: steps of ascent on slopes; 0 leaves them as they are. budget: of relaxed_bounds.
    """
    examples, owner = torch.unique(pairs.example, return_inverse=True)
    if not len(examples):
        return pairs.differences.new_zeros(0)
    at_x = relaxed.exact.values(x[examples].double())[-1]
    margins = (pairs.differences * at_x[owner]).sum(dim=1)
    least = _differences(relaxed, x, pairs, threat_model, margins, n_iterations, budget)
    todo = _open(least, pairs, _AT_HAND * margins, len(x))
    if n_iterations and todo.any():
        again = _differences(
            relaxed, x, pairs.at(todo), threat_model, margins[todo], 2 * n_iterations,
            budget, n_between=n_iterations,
        )  # fmt: skip
        least[todo] = least[todo].maximum(again)
    return least


def _differences(
    relaxed: Relaxed, x: Tensor, pairs: Pairs, threat_model: ThreatModel, margins: Tensor,
    n_iterations: int, budget: int, *, n_between: int = 0,
) -> Tensor:  # fmt: skip
    """Bound the pairs' differences; n_between: steps of ascent behind the bounds between."""
    examples, owner = torch.unique(pairs.example, return_inverse=True)
    ball = Ball(x[examples], threat_model)
    bounds, lines = relaxed_bounds(relaxed, ball, budget=budget, n_iterations=n_between)
    found = difference_bounds(relaxed.exact, bounds, ball, pairs.differences, owner, lines=lines)
    least = _computed(found, relaxed, pairs)
    if lines and n_iterations:
        todo = _open(least, pairs, _WITHIN_REACH * margins, len(x)).nonzero().flatten()
        # Searched in the fast dtype, and proved in float64.
        better = optimised_bounds(
            relaxed.fast, relaxed.exact, bounds, ball, len(relaxed.exact.nodes),
            pairs.differences[todo], owner[todo], lines, n_iterations=n_iterations,
        )  # fmt: skip
        least[todo] = least[todo].maximum(_computed(better, relaxed, pairs.at(todo)))
    return least


def _open(least: Tensor, pairs: Pairs, reach: Tensor, n: int) -> Tensor:
    """Say which pairs are not proved where no pair of their example lacks more than reach, (n,)."""
    worst = _by_example(least + reach, pairs, n)
    return (least <= 0) & (worst[pairs.example] > 0)


def _by_example(least: Tensor, pairs: Pairs, n: int) -> Tensor:
    """Return the smallest value of each example's pairs, (n,); inf where it has none."""
    smallest = least.new_full((n,), torch.inf)
    return smallest.scatter_reduce(0, pairs.example, least, "amin")
