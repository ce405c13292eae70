"""Ascent on the slopes and the dual variables of subdomains, which their bounds rise by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.branch_and_bound.problem import Problem
from robustbench_dyn.certification.branch_and_bound.relaxation import (
    Functions,
    Lines,
    Relaxation,
    relax,
)
from robustbench_dyn.certification.network.graph import Network

# The steps of Adam for slopes, and for dual variables of coefficients of 1; both decay.
_STEP, _DUAL_STEP, _LAST_STEP = 0.2, 0.1, 0.02
# Rows that have reached their aim are left out once they are this share.
_DONE = 0.3


class Ascent(NamedTuple):
    """The best bounds of some rows, with what they are reached by.

    value: (rows,); no proof. slopes, dual_variables: (rows, neurons). coefficients: (rows, inputs).
    neurons: (rows, neurons), the coefficients of their values.
    """

    value: Tensor
    slopes: Tensor
    dual_variables: Tensor
    coefficients: Tensor
    neurons: Tensor


def ascend(
    problem: Problem,
    network: Network,
    functions: Functions,
    lines: Lines,
    slopes: Tensor,
    dual_variables: Tensor,
    aim: Tensor,
    *,
    n_steps: int,
) -> Ascent:
    """Raise bounds of functions until they exceed their aim; see relax.

    aim: (rows,). All of the network's dtype. Dual variables of a row change only where it has
    decisions.
    """
    left = torch.arange(len(aim), device=aim.device)
    moving = _Moving(problem, slopes, dual_variables, lines, n_steps)
    best: Ascent | None = None
    for step in range(n_steps + 1):
        last = step == n_steps
        with torch.enable_grad():
            slopes, *duals = moving.parameters(fixed=last)
            found = relax(problem, network, functions, lines, slopes, duals[0] if duals else None)
            total = found.value.sum()
        best = _kept(best, left, found, moving)
        # Without neurons there is nothing to optimise.
        if last or not total.requires_grad:
            break
        done = best.value[left] > aim
        if bool(done.all()):
            break
        gradients = torch.autograd.grad(total, [slopes, *duals], allow_unused=True)
        moving.step(gradients, found.coefficients)
        if float(done.double().mean()) > _DONE:
            rest = (~done).nonzero().flatten()
            left, aim = left[rest], aim[rest]
            functions, lines = functions.at(rest), lines.at(rest)
            moving.keep(rest)
    assert best is not None
    return best


def _kept(best: Ascent | None, rows: Tensor, found: Relaxation, moving: _Moving) -> Ascent:
    """Keep what is better than before."""
    parts = (
        found.value.detach(),
        moving.slopes,
        moving.dual_variables,
        found.coefficients.detach(),
        found.neurons.detach(),
    )
    if best is None:
        return Ascent(*(part.clone() for part in parts))
    better = parts[0] > best.value[rows]
    changed = rows[better]
    for whole, part in zip(best, parts, strict=True):
        whole[changed] = part[better]
    return best


class _Moving:
    """Slopes, and dual variables where neurons are split, under ascent by Adam."""

    def __init__(
        self,
        problem: Problem,
        slopes: Tensor,
        dual_variables: Tensor,
        lines: Lines,
        n_steps: int,
    ) -> None:
        self.slopes, self.dual_variables = slopes.clone(), dual_variables.clone()
        self._split = bool((lines.decisions != 0).any())
        self._low = problem.min_slope[: slopes.shape[1]].to(slopes)
        self._decay = (_LAST_STEP / _STEP) ** (1 / max(1, n_steps))
        self._rate, self._steps = 1.0, 0
        self._means = [torch.zeros_like(slopes), torch.zeros_like(dual_variables)]
        self._squares = [torch.zeros_like(slopes), torch.zeros_like(dual_variables)]
        self._scale: Tensor | None = None

    def parameters(self, *, fixed: bool) -> list[Tensor]:
        """Return what moves, as leaves of autograd unless it is fixed."""
        both = [self.slopes, self.dual_variables] if self._split else [self.slopes]
        return both if fixed else [part.detach().requires_grad_() for part in both]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], coefficients: Tensor) -> None:
        """Move upwards; coefficients: (rows, inputs), of the first step."""
        if self._scale is None:
            # Dual variables have the scale of the coefficients that they balance.
            largest = coefficients.detach().abs().amax(dim=1, keepdim=True)
            self._scale = _DUAL_STEP * largest.clamp_min(1.0)
        self._steps += 1
        moves = [None if g is None else self._move(k, g) for k, g in enumerate(gradients)]
        if moves[0] is not None:
            slopes = self.slopes + _STEP * moves[0]
            self.slopes = slopes.maximum(self._low).clamp_max(1.0)
        if len(moves) > 1 and moves[1] is not None:
            self.dual_variables = (self.dual_variables + self._scale * moves[1]).clamp_min(0.0)
        self._rate *= self._decay

    def _move(self, which: int, gradient: Tensor) -> Tensor:
        mean = self._means[which].lerp_(gradient, 0.1)
        square = self._squares[which].lerp_(gradient.square(), 0.1)
        unbiased = 1 - 0.9**self._steps
        return self._rate * (mean / unbiased) / ((square / unbiased).sqrt() + 1e-12)

    def keep(self, rows: Tensor) -> None:
        """Leave all other rows out."""
        self.slopes, self.dual_variables = self.slopes[rows], self.dual_variables[rows]
        self._means = [moment[rows] for moment in self._means]
        self._squares = [moment[rows] for moment in self._squares]
        self._scale = None if self._scale is None else self._scale[rows]
