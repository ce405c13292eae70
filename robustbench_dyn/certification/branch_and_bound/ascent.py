"""Ascent on the slopes and the dual variables of subdomains, which their bounds rise by."""

from __future__ import annotations

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
    best: Ascent | None = None
    left = torch.arange(len(aim), device=aim.device)
    split = bool((lines.decisions != 0).any())
    moving = _Moving(problem, slopes.clone(), dual_variables.clone(), n_steps, split)
    for step in range(n_steps + 1):
        last = step == n_steps
        with torch.enable_grad():
            parameters = moving.leaves() if not last else moving.values()
            found = relax(problem, network, functions, lines, *parameters)
            total = found.value.sum()
        best = _kept(best, left, found, moving)
        if last or not total.requires_grad:
            break
        done = best.value[left] > aim
        if bool(done.all()):
            break
        moving.step(torch.autograd.grad(total, parameters, allow_unused=True), found.coefficients)
        if float(done.double().mean()) > _DONE:
            rest = (~done).nonzero().flatten()
            left, aim = left[rest], aim[rest]
            functions, lines = functions.at(rest), lines.at(rest)
            moving = moving.at(rest)
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
    """Slopes and dual variables under ascent by Adam."""

    def __init__(
        self, problem: Problem, slopes: Tensor, duals: Tensor, n_steps: int, split: bool
    ) -> None:
        self.slopes, self.dual_variables = slopes, duals
        self._problem, self._split = problem, split
        self._low = problem.min_slope.to(slopes)
        self._decay = (_LAST_STEP / _STEP) ** (1 / max(1, n_steps))
        self._rate, self._steps = 1.0, 0
        self._moments = [torch.zeros_like(p) for p in (slopes, slopes, duals, duals)]
        self._scale: Tensor | None = None

    def values(self) -> tuple[Tensor, Tensor | None]:
        return self.slopes, self.dual_variables if self._split else None

    def leaves(self) -> tuple[Tensor, ...]:
        both = (self.slopes, self.dual_variables) if self._split else (self.slopes,)
        return tuple(part.detach().requires_grad_() for part in both)

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor | None, ...], coefficients: Tensor) -> None:
        if self._scale is None:
            # Dual variables have the scale of the coefficients that they balance.
            largest = coefficients.detach().abs().amax(dim=1, keepdim=True)
            self._scale = _DUAL_STEP * largest.clamp_min(1.0)
        self._steps += 1
        if gradients[0] is not None:
            move = self._move(0, gradients[0])
            self.slopes = (self.slopes + _STEP * move).maximum(self._low).clamp_max(1.0)
        if self._split and gradients[1] is not None:
            move = self._move(1, gradients[1])
            self.dual_variables = (self.dual_variables + self._scale * move).clamp_min(0.0)
        self._rate *= self._decay

    def _move(self, which: int, gradient: Tensor) -> Tensor:
        mean, square = self._moments[2 * which : 2 * which + 2]
        mean.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.1)
        unbiased = (1 - 0.9**self._steps), (1 - 0.9**self._steps)
        return self._rate * (mean / unbiased[0]) / ((square / unbiased[1]).sqrt() + 1e-12)

    def at(self, rows: Tensor) -> _Moving:
        self.slopes, self.dual_variables = self.slopes[rows], self.dual_variables[rows]
        self._moments = [moment[rows] for moment in self._moments]
        self._scale = None if self._scale is None else self._scale[rows]
        return self
