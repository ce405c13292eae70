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
from robustbench_dyn.threat_models import ThreatModel, distance, project

# Each cut halves a part; the first ones are made before anything is bounded, which fills a batch.
_FIRST_CUTS, _CUTS = 4, 2
# Parts that are bounded at a time.
_BATCH = 512
# A search is given up after so many parts: networks of the plane took a sixth of them at most.
_MOST_PARTS = 2_000
# Parts that are narrower than this share of the ball tell no more.
_NARROWEST = 2.0**-22


class InputSearch(NamedTuple):
    """What a search decided.

    proved: (objectives,) bool, which are above 0 on all of the ball. x: an input where the exact
    network has a margin below 0, (1, *input_shape), or None where none was found. within_rounding:
    whether it ended since rounding forbids a proof somewhere. gave_up: whether it ended after too
    many parts.
    """

    proved: Tensor
    x: Tensor | None = None
    within_rounding: bool = False
    gave_up: bool = False


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
    waiting, n_done = [parts.at(_inside(parts, ball))], 0
    while waiting:
        parts = waiting.pop()
        if len(parts.lower) > _BATCH:
            waiting.append(parts.at(slice(_BATCH, None)))
            parts = parts.at(slice(_BATCH))
        points, margins = _middles(state, x, parts, objectives, threat_model)
        refuted = (margins < 0).any(dim=1).nonzero().flatten()
        if len(refuted) or time.monotonic() > until:
            point = points[refuted[:1]] if len(refuted) else None
            return InputSearch(_proved([parts, *waiting]), point)
        if n_done > _MOST_PARTS:
            return InputSearch(_proved([parts, *waiting]), gave_up=True)
        n_done += len(parts.lower)
        parts, within_rounding = _bounded(state, parts, margins, objectives, ball)
        if within_rounding:
            return InputSearch(_proved([parts, *waiting]), within_rounding=True)
        parts = _cut(parts.at(parts.left.any(dim=1)), _CUTS)
        parts = parts.at(_inside(parts, ball))
        if len(parts.lower):
            waiting.append(parts)
    return InputSearch(torch.ones(n, dtype=torch.bool, device=x.device))


def _proved(waiting: list[_Parts]) -> Tensor:
    """Say which objectives are proved on all parts, (objectives,) bool."""
    return ~torch.cat([parts.left for parts in waiting]).any(dim=0)


def _middles(
    state: RelaxationState,
    x: Tensor,
    parts: _Parts,
    objectives: Objectives,
    threat_model: ThreatModel,
) -> tuple[Tensor, Tensor]:
    """Return the middles of parts, put into the ball, and the exact margins there.

    They are (parts, *input_shape), of x's dtype, and (parts, objectives), float64.
    """
    middle = ((parts.lower + parts.upper) / 2).view(-1, *x.shape[1:]).to(x)
    points = project(middle, x.expand_as(middle), threat_model)
    logits = state.exact.outputs(points.double())[-1]
    return points, logits @ objectives.coefficients.T


def _bounded(
    state: RelaxationState, parts: _Parts, margins: Tensor, objectives: Objectives, ball: Ball
) -> tuple[_Parts, bool]:
    """Return parts without what is proved on them, and whether rounding forbids to prove the rest.

    margins: (parts, objectives), at their middles. Where one is no more than rounding, and so is
    what its bound lacks, no smaller part has a better bound.
    """
    box = Box(parts.lower, parts.upper, ball.shape)
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
    rounding = found.rounding + chosen.observed
    margin = margins[owners, rows]
    lost = (margin <= rounding) & (margin - found.value <= rounding) & rounding.isfinite()
    narrow = (parts.upper - parts.lower).amax(dim=1) < _NARROWEST * ball.eps
    within_rounding = bool(((lost | narrow[owners]) & ~proved).any())
    return parts._replace(left=left), within_rounding


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
    # The distance errs by less than a share of 1e-12.
    return ~(distance(away, torch.zeros_like(away), ball.norm) * (1 - 1e-12) > ball.eps)
