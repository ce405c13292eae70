"""Branch and bound over the input, for networks of few inputs and of any activations.

The box around a ball is cut into parts, and each part is bounded by a linear relaxation of its own.
A part is left out once it lies outside of the ball or all margins are proved on it; another one is
cut again. Relaxations are exact in the limit of small parts, so that all of a ball is proved or an
input is found, unless its least margin is 0 within rounding. (Wang et al., ReluVal, arXiv
1804.10829, Section 4.3, with intervals in place of relaxations.)
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.back_substitution import objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball, Box
from robustbench_dyn.certification.bounds.intermediate import RelaxationState, intermediate_bounds
from robustbench_dyn.certification.objectives import Objectives
from robustbench_dyn.threat_models import ThreatModel, project

# Each cut halves a part; the first ones are made before anything is bounded, which fills a batch.
_FIRST_CUTS, _CUTS = 4, 2
# Parts that are bounded at a time.
_BATCH = 512


class InputSearch(NamedTuple):
    """proved: (objectives,) bool, which are above 0 on all of the ball. x: the input where the
    exact network has a margin of at most 0, (1, *input_shape), or None where none was found.
    """

    proved: Tensor
    x: Tensor | None


class _Parts(NamedTuple):
    """Parts of a box: lower, upper, (parts, inputs); left, (parts, objectives) bool: unproved."""

    lower: Tensor
    upper: Tensor
    left: Tensor

    def at(self, rows: Tensor | slice) -> _Parts:
        return _Parts(*(part[rows] for part in self))


def search_inputs(
    state: RelaxationState,
    x: Tensor,
    objectives: Objectives,
    threat_model: ThreatModel,
    *,
    seconds: float,
) -> InputSearch:
    """Prove objectives of one example over its ball, or find an input that refutes one.

    x: (1, *input_shape). Objectives that are neither within the time stay unproved.
    """
    until = time.monotonic() + seconds
    ball = Ball(x, threat_model)
    n = len(objectives.example)
    left = torch.ones(1, n, dtype=torch.bool, device=x.device)
    parts = _cut(_Parts(ball.lower, ball.upper, left), _FIRST_CUTS)
    waiting = [parts.at(_inside(parts, ball))]
    while waiting:
        parts = waiting.pop()
        if len(parts.lower) > _BATCH:
            waiting.append(parts.at(slice(_BATCH, None)))
            parts = parts.at(slice(_BATCH))
        refuting = _refuting(state, x, parts, objectives, threat_model)
        if refuting is not None or time.monotonic() > until:
            unproved = torch.cat([each.left for each in (parts, *waiting)]).any(dim=0)
            return InputSearch(~unproved, refuting)
        parts = _bounded(state, parts, objectives, x.shape[1:])
        parts = _cut(parts.at(parts.left.any(dim=1)), _CUTS)
        parts = parts.at(_inside(parts, ball))
        if len(parts.lower):
            waiting.append(parts)
    return InputSearch(torch.ones(n, dtype=torch.bool, device=x.device), None)


def _bounded(
    state: RelaxationState, parts: _Parts, objectives: Objectives, shape: torch.Size
) -> _Parts:
    """Return the parts without the objectives that are proved on them."""
    box = Box(parts.lower, parts.upper, shape)
    bounds, linear_bounds = intermediate_bounds(state, box)
    owners, rows = parts.left.nonzero(as_tuple=True)
    chosen = objectives.at(rows)
    found = objective_bounds(
        state.exact, bounds, box, chosen.coefficients, owners, linear_bounds=linear_bounds
    )
    # Written so that NaN stays unproved.
    proved = found.value > chosen.allowance(found.rounding)
    left = parts.left.clone()
    left[owners, rows] = ~proved
    return parts._replace(left=left)


def _refuting(
    state: RelaxationState,
    x: Tensor,
    parts: _Parts,
    objectives: Objectives,
    threat_model: ThreatModel,
) -> Tensor | None:
    """Return the middle of a part, put into the ball, where an objective is least and below 0."""
    middle = ((parts.lower + parts.upper) / 2).view(-1, *x.shape[1:]).to(x)
    points = project(middle, x.expand_as(middle), threat_model)
    logits = state.exact.outputs(points.double())[-1]
    values = (logits @ objectives.coefficients.T).amin(dim=1)
    least = int(values.argmin())
    return points[least : least + 1] if float(values[least]) < 0 else None


def _cut(parts: _Parts, times: int) -> _Parts:
    """Halve each part so many times across its longest side."""
    for _ in range(times):
        longest = (parts.upper - parts.lower).argmax(dim=1, keepdim=True)
        low, high = parts.lower.gather(1, longest), parts.upper.gather(1, longest)
        middle = (low + high) / 2
        lower = torch.cat([parts.lower, parts.lower.scatter(1, longest, middle)])
        upper = torch.cat([parts.upper.scatter(1, longest, middle), parts.upper])
        parts = _Parts(lower, upper, torch.cat([parts.left, parts.left]))
    return parts


def _inside(parts: _Parts, ball: Ball) -> Tensor:
    """Say which parts have a point in the ball, (parts,) bool."""
    away = torch.maximum(parts.lower - ball.centre, ball.centre - parts.upper).clamp_min(0)
    order = {"Linf": torch.inf, "L2": 2, "L1": 1}[ball.norm]
    # The distance errs by less than a share of 1e-12.
    return ~(away.norm(p=order, dim=1) * (1 - 1e-12) > ball.eps)
