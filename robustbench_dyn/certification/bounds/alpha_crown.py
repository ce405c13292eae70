"""alpha-CROWN: slopes of linear bounds, optimised by gradient ascent on the bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Activation, Line, LinearBounds
from robustbench_dyn.certification.bounds.back_substitution import (
    LowerBounds,
    back_substitute,
    chunks,
    concretise,
)
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.groups import of_examples
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Network, Pointwise

# Adam's first steps. A line that touches a smooth curve reacts to small changes of slope.
_STEP, _SMALL_STEP, _DECAY = 0.15, 0.03, 0.9
# A slope of 0 or 1 can change in one direction only: the ascent begins halfway to this one.
_MIDDLE = 0.5
# The index of an activation's output, and whether its upper line is meant.
_Key = tuple[int, bool]


def optimised_bounds(
    network: Network,
    proving: Network,
    bounds: Bounds,
    ball: Ball,
    k: int,
    rows: Tensor,
    owners: Tensor,
    initial: Mapping[int, LinearBounds],
    *,
    n_iterations: int,
) -> LowerBounds:
    """Bound <rows[i], output k> from below, with slopes optimised by some steps of Adam, (n,).

    Each row has slopes of its own (arXiv 2011.13824, Section 3.2, with fixed intermediate bounds).
    Lines are sound whatever their slopes: the offsets follow from these. The search itself leaves
    rounding out, and is done in `network`; the bounds are those of `proving`, the same network in a
    dtype of its own, at the best lines, which are of float64.
    """
    nothing = ball.centre.new_zeros(0)
    values, roundings = [nothing], [nothing]
    before = network.ancestors(k)
    initial = {i: lines for i, lines in initial.items() if i in before}
    for chunk in chunks(network, len(rows), k, factor=8):
        # Each row is a group of its own: its lines are.
        chunk_owners, objectives = owners[chunk], rows[chunk].flatten(1)[:, None].to(network.dtype)
        pick = of_examples(chunk_owners)
        lines = _Lines.of(network, bounds, initial, chunk_owners)
        slopes = lines.initial_slopes(initial, chunk_owners, network.dtype)
        best = {key: slope.detach().clone() for key, slope in slopes.items()}
        reached = bounds.lower[k].new_full((len(chunk_owners),), -torch.inf)
        ascent = {
            key: _Ascent(
                slope,
                _STEP if lines.is_piecewise_linear(key[0]) else _SMALL_STEP,
                lines.slope_range(key[0]),
            )
            for key, slope in slopes.items()
        }
        rough = lines.to(network.dtype)
        for step in range(n_iterations):
            with torch.enable_grad():
                bound = back_substitute(
                    network,
                    bounds,
                    k,
                    objectives,
                    pick,
                    rough.linear_bounds(slopes),
                    shared=False,
                    rounded=False,
                )
                lower_bound = concretise(bound, ball, bounds, pick)[:, 0]
                total = lower_bound.sum()
            better = lower_bound.detach() > reached
            reached = lower_bound.detach().where(better, reached)
            for key, slope in slopes.items():
                mask = better.view(-1, *[1] * (slope.dim() - 1))
                best[key] = torch.where(mask, slope.detach(), best[key])
            if slopes and step + 1 < n_iterations:
                gradients = torch.autograd.grad(total, list(slopes.values()))
                for key, gradient in zip(slopes, gradients, strict=True):
                    ascent[key].step(gradient)
        with torch.no_grad():
            exact = {key: slope.double() for key, slope in best.items()}
            objectives = rows[chunk].flatten(1)[:, None].to(proving.dtype)
            bound = back_substitute(
                proving, bounds, k, objectives, pick, lines.linear_bounds(exact), shared=False
            )
            values.append(concretise(bound, ball, bounds, pick)[:, 0])
            roundings.append(bound.rounding[:, 0])
    return LowerBounds(torch.cat(values), torch.cat(roundings))


class _Ascent:
    """Adam for one tensor of entries within bounds, upwards; torch's own imports its compiler.

    The step size is a share of the distance between the bounds.
    """

    def __init__(
        self, parameter: Tensor, step_size: float, within: tuple[Tensor | float, Tensor | float]
    ) -> None:
        self.parameter, self.step_size, self.steps = parameter, step_size, 0
        self.low, self.high = (torch.as_tensor(end).to(parameter) for end in within)
        self.scale = self.high - self.low
        self.mean, self.square = torch.zeros_like(parameter), torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        self.steps += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient.square(), 0.1)
        mean = self.mean / (1 - 0.9**self.steps)
        square = self.square / (1 - 0.9**self.steps)
        self.parameter.add_(self.step_size * self.scale * mean / (square.sqrt() + 1e-8))
        self.parameter.clamp_(self.low, self.high)
        self.step_size *= _DECAY


@dataclass(frozen=True)
class _Lines:
    """The linear bounds of some rows: by activation, bounds of its argument and fixed upper lines.

    fixed_upper: of convex activations, whose secant is the best upper line.
    """

    activations: Mapping[int, Activation]
    lower: Mapping[int, Tensor]
    upper: Mapping[int, Tensor]
    fixed_upper: Mapping[int, Line]

    @classmethod
    def of(
        cls, network: Network, bounds: Bounds, initial: Mapping[int, LinearBounds], owners: Tensor
    ) -> _Lines:
        nodes = {k: network.nodes[k - 1] for k in initial}
        activations = {k: n.activation for k, n in nodes.items() if isinstance(n, Pointwise)}
        return cls(
            activations,
            {k: bounds.lower[n.inputs[0]][owners] for k, n in nodes.items()},
            {k: bounds.upper[n.inputs[0]][owners] for k, n in nodes.items()},
            {
                k: Line(line.slope[owners], line.offset[owners])
                for k, (_, line) in initial.items()
                if activations[k].secant_upper
            },
        )

    def is_piecewise_linear(self, k: int) -> bool:
        """Say whether an activation has kinks and no curvature."""
        return self.activations[k].piecewise_linear

    def slope_range(self, k: int) -> tuple[Tensor | float, Tensor | float]:
        """Return the least and the largest slopes of an activation that are worth trying."""
        return self.activations[k].slope_range(self.lower[k], self.upper[k])

    def to(self, dtype: torch.dtype) -> _Lines:
        """Return the lines of the same rows in another dtype."""
        return _Lines(
            self.activations,
            {k: lower.to(dtype) for k, lower in self.lower.items()},
            {k: upper.to(dtype) for k, upper in self.upper.items()},
            {
                k: Line(slope.to(dtype), offset.to(dtype))
                for k, (slope, offset) in self.fixed_upper.items()
            },
        )

    def initial_slopes(
        self, initial: Mapping[int, LinearBounds], owners: Tensor, dtype: torch.dtype
    ) -> dict[_Key, Tensor]:
        """Return the slopes that are optimised, as leaves of autograd."""
        slopes = {}
        for k, lines in initial.items():
            for above in (False, True):
                if not (above and k in self.fixed_upper):
                    slope = lines[above].slope[owners].detach().to(dtype, copy=True)
                    if self.is_piecewise_linear(k):
                        slope = (slope + _MIDDLE) / 2
                    slopes[k, above] = slope.requires_grad_()
        return slopes

    def linear_bounds(self, slopes: Mapping[_Key, Tensor]) -> dict[int, LinearBounds]:
        """Return the lines of these slopes."""
        found = {}
        for k, activation in self.activations.items():
            lower, upper = self.lower[k], self.upper[k]
            lower_line = activation.line(slopes[k, False], lower, upper, above=False)
            if k in self.fixed_upper:
                upper_line = self.fixed_upper[k]
            else:
                upper_line = activation.line(slopes[k, True], lower, upper, above=True)
            found[k] = LinearBounds(lower_line, upper_line)
        return found
