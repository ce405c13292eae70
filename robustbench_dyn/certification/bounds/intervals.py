"""Interval bounds of every output, with their rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.network.graph import Network, Pointwise


class Bounds(NamedTuple):
    """Bounds of the outputs of a network as the model computes them, with its own rounding.

    Lists by the index of the output, with entries (batch, *shape), of one dtype. lower, upper:
    lower <= output <= upper. magnitudes: at least the sum of the absolute values of all summands of
    an affine output, and at least its absolute value: rounding is a multiple of it. errors: at
    least the difference between the output as computed and as it is in exact arithmetic.
    """

    lower: list[Tensor]
    upper: list[Tensor]
    magnitudes: list[Tensor]
    errors: list[Tensor]

    def at(self, examples: Tensor) -> Bounds:
        """Return the bounds of some examples, by a mask or by indices."""
        return Bounds(*([values[examples] for values in part] for part in self))

    def tighten(self, k: int, lower: Tensor, upper: Tensor) -> None:
        """Intersect the bounds of output k with these."""
        self.lower[k] = self.lower[k].maximum(lower)
        self.upper[k] = self.upper[k].minimum(upper)


def propagate(
    network: Network, ball: Ball, refine: Callable[[int, Bounds], None] | None = None
) -> Bounds:
    """Return bounds of every output over the ball: centres by weights, radii by absolute weights.

    network: its dtype is that of the bounds, which are widened by the rounding there. refine(k,
    bounds) may tighten output k, the last one bounded so far, before later outputs are bounded by
    it. (Interval bound propagation, arXiv 1810.12715, Section 3.)
    The model's rounding, in any order of summation, errs by at most its unit roundoff times the
    number of summands times the sum of their absolute values (Jeannerod & Rump, SIAM J. Matrix
    Anal. Appl. 34, 2013); a value that may overflow has no bounds.
    """
    unit, largest = network.unit, torch.finfo(network.model_dtype).max
    own = torch.finfo(network.dtype).eps / 2
    lower, upper = ball.box(network.dtype)
    bounds = Bounds([lower], [upper], [upper.abs()], [torch.zeros_like(upper)])
    for k, node in enumerate(network.nodes, start=1):
        lows = [bounds.lower[i] for i in node.inputs]
        highs = [bounds.upper[i] for i in node.inputs]
        if isinstance(node, Pointwise):
            low, high = node.activation(lows[0]), node.activation(highs[0])
            magnitude = torch.maximum(low.abs(), high.abs()) + network.flush_errors[k - 1]
            rounding = node.activation.rounding_units * unit * magnitude
            slack = 16 * own * magnitude + rounding + node.activation.deviation
            (error,) = (bounds.errors[i] for i in node.inputs)
            error = error * node.activation.max_slope + rounding + node.activation.deviation
            error = error * (1 + 8 * own)
        else:
            centres = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
            radii = [(high - low) / 2 for low, high in zip(lows, highs, strict=True)]
            sizes = [torch.maximum(a.abs(), b.abs()) for a, b in zip(lows, highs, strict=True)]
            centre, radius = node.linear(*centres), node.abs_linear(*radii)
            magnitude = node.magnitude(*sizes)
            if node.bias is not None:
                centre = centre + node.bias
            low, high = centre - radius, centre + radius
            if node.n_summands:
                most = torch.stack([size.flatten(1).amax(dim=1) for size in sizes]).amax(dim=0)
                dropped = network.flush_errors[k - 1] * (1 + most)
                magnitude = magnitude + dropped.view(-1, *[1] * (magnitude.dim() - 1))
            rounding = node.rounding_units * unit * magnitude
            rounding = rounding.where(magnitude < largest, torch.inf)
            slack = 2 * (node.n_summands + 6) * own * magnitude + rounding
            error = node.abs_linear(*(bounds.errors[i] for i in node.inputs))
            error = (error + rounding) * (1 + 2 * (node.n_summands + 6) * own)
        bounds.lower.append(low - slack)
        bounds.upper.append(high + slack)
        bounds.magnitudes.append(magnitude)
        bounds.errors.append(error)
        if refine is not None:
            refine(k, bounds)
    return bounds
