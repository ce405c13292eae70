"""Interval bounds of every value, with their rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.network.graph import Network, Pointwise

_UNIT = 2.0**-53


class Bounds(NamedTuple):
    """Lists over the values: lower <= value <= upper and the terms that it is summed of.

    The values are those that the model computes, with its own rounding. lower[k], upper[k]:
    (batch, *shape), float64. terms[k]: at least the sum of the absolute values of all terms of an
    affine value, and at least abs(value): what its rounding is measured by. errors[k]: at least the
    difference between the value as computed and as it is in exact arithmetic.
    """

    lower: list[Tensor]
    upper: list[Tensor]
    terms: list[Tensor]
    errors: list[Tensor]

    def tighten(self, value: int, lower: Tensor, upper: Tensor) -> None:
        """Keep the better of the known bounds and these."""
        self.lower[value] = self.lower[value].maximum(lower)
        self.upper[value] = self.upper[value].minimum(upper)


def propagate(
    network: Network, ball: Ball, refine: Callable[[int, Bounds], None] | None = None
) -> Bounds:
    """Return bounds of every value over the ball: centres through weights, radii through abs.

    network: of float64. refine(k, bounds) may tighten value k, the last one that is known, before
    what follows is made of it. (Interval bound propagation, arXiv 1810.12715, Section 3.)
    The model's rounding, in any order of summation, errs by at most its unit roundoff times the
    number of terms times the sum of their absolute values (Jeannerod & Rump, SIAM J. Matrix Anal.
    Appl. 34, 2013); a value that may overflow has no bounds.
    """
    unit, largest = network.unit, torch.finfo(network.model_dtype).max
    lower, upper = ball.box()
    bounds = Bounds([lower], [upper], [upper.abs()], [torch.zeros_like(upper)])
    for k, node in enumerate(network.nodes, start=1):
        lows = [bounds.lower[i] for i in node.inputs]
        highs = [bounds.upper[i] for i in node.inputs]
        if isinstance(node, Pointwise):
            low, high = node.activation(lows[0]), node.activation(highs[0])
            terms = torch.maximum(low.abs(), high.abs()) + network.flushed[k - 1]
            rounding = node.activation.units * unit * terms
            slack = 16 * _UNIT * terms + rounding + node.activation.error
            (error,) = (bounds.errors[i] for i in node.inputs)
            error = error * node.activation.steepest + rounding + node.activation.error
        else:
            centres = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
            radii = [(high - low) / 2 for low, high in zip(lows, highs, strict=True)]
            sizes = [torch.maximum(a.abs(), b.abs()) for a, b in zip(lows, highs, strict=True)]
            centre, radius = node.linear(*centres), node.spread(*radii)
            terms = node.sizes(*sizes)
            if node.bias is not None:
                centre = centre + node.bias
            low, high = centre - radius, centre + radius
            if node.terms:
                most = torch.stack([size.flatten(1).amax(dim=1) for size in sizes]).amax(dim=0)
                dropped = network.flushed[k - 1] * (1 + most)
                terms = terms + dropped.view(-1, *[1] * (terms.dim() - 1))
            rounding = (node.rounding * unit * terms).where(terms < largest, torch.inf)
            slack = 2 * (node.terms + 6) * _UNIT * terms + rounding
            error = node.spread(*(bounds.errors[i] for i in node.inputs))
            error = error * (1 + 2 * (node.terms + 6) * _UNIT) + rounding
        bounds.lower.append(low - slack)
        bounds.upper.append(high + slack)
        bounds.terms.append(terms)
        bounds.errors.append(error)
        if refine is not None:
            refine(k, bounds)
    return bounds
