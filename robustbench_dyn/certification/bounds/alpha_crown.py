"""Better slopes for the lines of a relaxation, searched by gradient ascent on the bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Activation, Line, Lines
from robustbench_dyn.certification.bounds.back_substitution import (
    Least,
    chunks,
    concretise,
    substitute,
)
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Network, Pointwise

# Adam's first steps. A line that touches a smooth curve answers to small changes of slope.
_STEP, _SMALL_STEP, _DECAY = 0.15, 0.03, 0.9
# Slopes of 0 or 1 have no way but one: the ascent begins between them and this one.
_MIDDLE = 0.5
# An activation's value, and whether its upper line is meant.
_Key = tuple[int, bool]


def optimised_bounds(
    network: Network, proving: Network, bounds: Bounds, ball: Ball, value: int, functions: Tensor,
    owner: Tensor, starting: Mapping[int, Lines], *, n_iterations: int,
) -> Least:  # fmt: skip
    """Bound <functions[k], value> from below, with slopes found by some steps of Adam, (n,).

    Each row has slopes of its own (arXiv 2011.13824, Section 3.2, the bounds of earlier values as
    they are). Lines are sound whatever their slopes: the offsets follow from these. The search
    itself leaves rounding out, and is done in `network`; the bounds are those of `proving`, the
    same network in a dtype of its own, at the best lines, which are of float64.
    """
    nothing = ball.centre.new_zeros(0)
    found, roundings = [nothing], [nothing]
    for rows in chunks(network, len(functions), factor=8, upto=value):
        of_rows, asked = owner[rows], functions[rows].to(network.dtype)
        family = _Family.of(network, bounds, starting, of_rows)
        slopes = family.starting_slopes(starting, of_rows, network.dtype)
        best = {key: slope.detach().clone() for key, slope in slopes.items()}
        reached = bounds.lower[value].new_full((len(of_rows),), -torch.inf)
        ascent = {
            key: _Ascent(slope, _STEP if family.is_bent(key[0]) else _SMALL_STEP)
            for key, slope in slopes.items()
        }
        rough = family.to(network.dtype)
        for step in range(n_iterations):
            with torch.enable_grad():
                bound = substitute(
                    network, bounds, value, asked, of_rows, rough.lines(slopes), rounded=False
                )
                least = concretise(bound, ball, bounds, of_rows)
                total = least.sum()
            better = least.detach() > reached
            reached = least.detach().where(better, reached)
            for key, slope in slopes.items():
                mask = better.view(-1, *[1] * (slope.dim() - 1))
                best[key] = torch.where(mask, slope.detach(), best[key])
            if step + 1 < n_iterations:
                gradients = torch.autograd.grad(total, list(slopes.values()))
                for key, gradient in zip(slopes, gradients, strict=True):
                    ascent[key].step(gradient)
        with torch.no_grad():
            lines = family.lines({key: slope.double() for key, slope in best.items()})
            asked = functions[rows].to(proving.dtype)
            bound = substitute(proving, bounds, value, asked, of_rows, lines)
            found.append(concretise(bound, ball, bounds, of_rows))
            roundings.append(bound.rounding)
    return Least(torch.cat(found), torch.cat(roundings))


class _Ascent:
    """Adam for one tensor with entries in [0, 1], upwards; torch's own imports its compiler."""

    def __init__(self, parameter: Tensor, step_size: float) -> None:
        self.parameter, self.step_size, self.steps = parameter, step_size, 0
        self.mean, self.square = torch.zeros_like(parameter), torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        self.steps += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient.square(), 0.1)
        mean = self.mean / (1 - 0.9**self.steps)
        square = self.square / (1 - 0.9**self.steps)
        self.parameter.add_(self.step_size * mean / (square.sqrt() + 1e-8)).clamp_(0.0, 1.0)
        self.step_size *= _DECAY


@dataclass(frozen=True)
class _Family:
    """All lines of some rows: by activation value, its bounds, and upper lines that stay."""

    activations: Mapping[int, Activation]
    lower: Mapping[int, Tensor]
    upper: Mapping[int, Tensor]
    staying: Mapping[int, Line]

    @classmethod
    def of(
        cls, network: Network, bounds: Bounds, starting: Mapping[int, Lines], owner: Tensor
    ) -> _Family:
        nodes = {k: network.nodes[k - 1] for k in starting}
        activations = {k: n.activation for k, n in nodes.items() if isinstance(n, Pointwise)}
        return cls(
            activations,
            {k: bounds.lower[n.inputs[0]][owner] for k, n in nodes.items()},
            {k: bounds.upper[n.inputs[0]][owner] for k, n in nodes.items()},
            {k: Line(line.slope[owner], line.offset[owner])
             for k, (_, line) in starting.items() if activations[k].tight_upper},
        )  # fmt: skip

    def is_bent(self, k: int) -> bool:
        """Say whether the activation is bent and not curved."""
        return self.activations[k].piecewise_linear

    def to(self, dtype: torch.dtype) -> _Family:
        """Return the lines of the same rows in another dtype."""
        return _Family(
            self.activations,
            {k: lower.to(dtype) for k, lower in self.lower.items()},
            {k: upper.to(dtype) for k, upper in self.upper.items()},
            {k: Line(slope.to(dtype), offset.to(dtype))
             for k, (slope, offset) in self.staying.items()},
        )  # fmt: skip

    def starting_slopes(
        self, starting: Mapping[int, Lines], owner: Tensor, dtype: torch.dtype
    ) -> dict[_Key, Tensor]:
        """Return the slopes that may change, as leaves."""
        found = {}
        for k, lines in starting.items():
            for above in (False, True):
                if not (above and k in self.staying):
                    slope = lines[above].slope[owner].detach().to(dtype, copy=True)
                    if self.is_bent(k):
                        slope = (slope + _MIDDLE) / 2
                    found[k, above] = slope.requires_grad_()
        return found

    def lines(self, slopes: Mapping[_Key, Tensor]) -> dict[int, Lines]:
        """Return the lines of these slopes."""
        found = {}
        for k, activation in self.activations.items():
            lower, upper = self.lower[k], self.upper[k]
            below = activation.line(slopes[k, False], lower, upper, above=False)
            if k in self.staying:
                above = self.staying[k]
            else:
                above = activation.line(slopes[k, True], lower, upper, above=True)
            found[k] = Lines(below, above)
        return found
