"""Interval bounds of every output, with their rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.network.graph import Affine, Network, Pointwise

_UNIT = 2.0**-53


class Bounds(NamedTuple):
    """Bounds of the outputs of a network as the model computes them, with its own rounding.

    Lists by the index of the output, with entries (batch, *shape), float64. lower, upper: lower <=
    output <= upper. magnitudes: at least the sum of the absolute values of all summands of an
    affine output, and at least its absolute value: rounding is a multiple of it. errors: at least
    the difference between the output as computed and as it is in exact arithmetic.
    """

    lower: list[Tensor]
    upper: list[Tensor]
    magnitudes: list[Tensor]
    errors: list[Tensor]

    def tighten(self, k: int, lower: Tensor, upper: Tensor) -> None:
        """Intersect the bounds of output k with these."""
        self.lower[k] = self.lower[k].maximum(lower)
        self.upper[k] = self.upper[k].minimum(upper)


def propagate(
    network: Network, ball: Ball, refine: Callable[[int, Bounds], None] | None = None
) -> Bounds:
    """Return bounds of every output over the ball: centres by weights, radii by absolute weights.

    network: of float64. refine(k, bounds) may tighten output k, the last one bounded so far, before
    later outputs are bounded by it. (Interval bound propagation, arXiv 1810.12715, Section 3.)
    The model's rounding, in any order of summation, errs by at most its unit roundoff times the
    number of summands times the sum of their absolute values (Jeannerod & Rump, SIAM J. Matrix
    Anal. Appl. 34, 2013); a value that may overflow has no bounds.
    """
    unit, largest = network.unit, torch.finfo(network.model_dtype).max
    lower, upper = ball.box()
    bounds = Bounds([lower], [upper], [upper.abs()], [torch.zeros_like(upper)])
    for k, node in enumerate(network.nodes, start=1):
        lows = [bounds.lower[i] for i in node.inputs]
        highs = [bounds.upper[i] for i in node.inputs]
        if isinstance(node, Pointwise):
            activation = node.activation
            low, high = activation.interval(lows[0], highs[0])
            (error,) = (bounds.errors[i] for i in node.inputs)
            slope = activation.slope_bound(lows[0], highs[0], error)
            steepness = slope.clamp_min(1.0) if isinstance(slope, Tensor) else max(1.0, slope)
            magnitude = torch.maximum(low.abs(), high.abs())
            farthest = torch.maximum(lows[0].abs(), highs[0].abs())
            magnitude = magnitude + activation.summands(farthest)
            magnitude = magnitude + network.flush_errors[k - 1] * steepness
            rounding = activation.rounding_units * unit * magnitude
            # Others are no larger than their arguments, or not computed by the model.
            if activation.max_slope > 1 and activation.rounding_units:
                rounding = rounding.where(magnitude < largest, torch.inf)
            slack = 16 * _UNIT * magnitude + rounding + activation.deviation
            error = error * slope + rounding + activation.deviation
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
            if node.own_units != 0:
                rounding = rounding.where(magnitude < largest, torch.inf)
            slack = 2 * (node.n_summands + 6) * _UNIT * magnitude + rounding
            error = node.abs_linear(*(bounds.errors[i] for i in node.inputs))
            error = error * (1 + 2 * (node.n_summands + 6) * _UNIT) + rounding
        low, high = low - slack, high + slack
        if isinstance(node, Affine) and node.direct is not None:
            low, high, magnitude, error = _tightened(
                node, network, bounds, (low, high, magnitude, error), network.flush_errors[k - 1]
            )
        bounds.lower.append(low)
        bounds.upper.append(high)
        bounds.magnitudes.append(magnitude)
        bounds.errors.append(error)
        if refine is not None:
            refine(k, bounds)
    return bounds


def _tightened(
    node: Affine,
    network: Network,
    bounds: Bounds,
    found: tuple[Tensor, Tensor, Tensor, Tensor],
    flush_error: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return lower, upper, magnitude and error of an output, by its direct bounds, too.

    found: the same by the node's own inputs; NaN, where these have no bounds, gives way.
    """
    direct, (low, high, magnitude, error) = node.direct, found
    assert direct is not None
    lows = [bounds.lower[i] for i in direct.inputs]
    highs = [bounds.upper[i] for i in direct.inputs]
    errors = [bounds.errors[i] for i in direct.inputs]
    direct_low, direct_high = direct.interval(lows, highs)
    size = torch.maximum(direct_low.abs(), direct_high.abs()) + flush_error
    own = magnitude
    if direct.magnitude is not None:
        own = size = size + direct.magnitude(lows, highs)
    rounding = node.rounding_units * network.unit * own
    rounding = rounding.where(own < torch.finfo(network.model_dtype).max, torch.inf)
    slack = 64 * _UNIT * size + rounding
    # Exact values lie within the errors of computed ones.
    wider = [
        [low - error for low, error in zip(lows, errors, strict=True)],
        [high + error for high, error in zip(highs, errors, strict=True)],
    ]
    direct_error = direct.error(errors, *wider) * (1 + 64 * _UNIT) + rounding
    return (
        torch.fmax(low, direct_low - slack),
        torch.fmin(high, direct_high + slack),
        torch.maximum(magnitude, size),
        torch.fmin(error, direct_error),
    )
