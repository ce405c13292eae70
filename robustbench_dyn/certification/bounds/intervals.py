"""Interval bounds of every output, with their rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.network.graph import Direct, Network, Node, Pointwise
from robustbench_dyn.certification.patience import look_at_time

# More than the rounding of a difference of bounds, relatively, in float32.
_WIDER = 2.0**-20


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
        look_at_time()
        lows = [bounds.lower[i] for i in node.inputs]
        highs = [bounds.upper[i] for i in node.inputs]
        direct: _DirectBounds | None = None
        if isinstance(node, Pointwise):
            low, high, magnitude, rounding, error = _activated(node, network, bounds, k)
            slack = 16 * own * magnitude + rounding + node.activation.deviation
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
                most = torch.stack([largest_numbers(size) for size in sizes]).amax(dim=0)
                dropped = network.flush_errors[k - 1] * (1 + most)
                magnitude = magnitude + dropped.view(-1, *[1] * (magnitude.dim() - 1))
            if node.direct is not None:
                direct = _direct_bounds(node.direct, bounds, magnitude, network.flush_errors[k - 1])
            rounded = magnitude if direct is None else direct.magnitude
            rounding = torch.zeros_like(rounded)
            if node.rounding_units:
                rounding = node.rounding_units * unit * rounded
                rounding = rounding.where(rounded < largest, torch.inf)
            slack = 2 * (node.n_summands + 6) * own * magnitude + rounding
            error = node.abs_linear(*(bounds.errors[i] for i in node.inputs))
            error = (error + rounding) * (1 + 2 * (node.n_summands + 6) * own)
        low, high = low - slack, high + slack
        if direct is not None:
            # Where a node's inputs have no bounds, its own are NaN, and give way.
            slack = 64 * own * direct.size + rounding
            low = torch.fmax(low, direct.lower - slack)
            high = torch.fmin(high, direct.upper + slack)
            magnitude = torch.maximum(magnitude, direct.magnitude)
            error = torch.fmin(error, (direct.error + rounding) * (1 + 64 * own))
        if direct is not None or _is_steep(node):
            # The bounds contain the exact value, too.
            error = torch.fmin(error, (high - low) * (1 + 16 * own))
        bounds.lower.append(low)
        bounds.upper.append(high)
        bounds.magnitudes.append(magnitude)
        bounds.errors.append(error)
        if refine is not None:
            refine(k, bounds)
    return bounds


def largest_numbers(sizes: Tensor) -> Tensor:
    """Return each example's largest number, (batch,); 0 where it has none."""
    return sizes.flatten(1).amax(dim=1) if sizes.numel() else sizes.new_zeros(len(sizes))


def _is_steep(node: Node) -> bool:
    """Say whether a node is an activation of unbounded slope, which multiplies errors."""
    if not isinstance(node, Pointwise):
        return False
    return max(-node.activation.min_slope, node.activation.max_slope) == math.inf


def _activated(
    node: Pointwise, network: Network, bounds: Bounds, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return lower, upper, magnitude, rounding and error of an activation's output."""
    activation, (i,) = node.activation, node.inputs
    lower, upper, error = bounds.lower[i], bounds.upper[i], bounds.errors[i]
    low, high = activation.interval(lower, upper)
    slope = activation.slope_bound(lower, upper, error)
    magnitude = torch.maximum(low.abs(), high.abs())
    for end in (lower, upper):
        summands = activation.summands(end)
        # One of the ends has the largest, so that their sum is enough; 0.0 costs nothing.
        if isinstance(summands, Tensor) or summands:
            magnitude = magnitude + summands
    units, flush_error = activation.rounding_units, network.flush_errors[k - 1]
    if not units:
        # The model does not compute it.
        rounding = torch.zeros_like(magnitude)
        magnitude = magnitude + flush_error
    else:
        steepness = slope.clamp_min(1.0) if isinstance(slope, Tensor) else max(1.0, slope)
        magnitude = magnitude + flush_error * steepness
        rounding = units * network.unit * magnitude
        # Other activations are no larger than their arguments.
        if max(-activation.min_slope, activation.max_slope) > 1:
            largest = torch.finfo(network.model_dtype).max
            rounding = rounding.where(magnitude < largest, torch.inf)
    own = torch.finfo(network.dtype).eps / 2
    error = (error * slope + rounding + activation.deviation) * (1 + 16 * own)
    return low, high, magnitude, rounding, error


class _DirectBounds(NamedTuple):
    """What node.direct says: bounds in exact arithmetic, the error handed on, and magnitudes.

    size: at least the absolute value. magnitude: what the model's rounding is a multiple of.
    """

    lower: Tensor
    upper: Tensor
    error: Tensor
    size: Tensor
    magnitude: Tensor


def _direct_bounds(
    direct: Direct, bounds: Bounds, magnitude: Tensor, flush_error: float
) -> _DirectBounds:
    """Return an output's direct bounds; magnitude: that of the node itself."""
    lows = [bounds.lower[i] for i in direct.inputs]
    highs = [bounds.upper[i] for i in direct.inputs]
    errors = [bounds.errors[i] for i in direct.inputs]
    lower, upper = direct.interval(lows, highs)
    # Exact values lie within the errors of computed ones.
    error = direct.error(
        errors,
        [low - error - _WIDER * low.abs() for low, error in zip(lows, errors, strict=True)],
        [high + error + _WIDER * high.abs() for high, error in zip(highs, errors, strict=True)],
    )
    size = torch.maximum(lower.abs(), upper.abs()) + flush_error
    if direct.magnitude is not None:
        magnitude = size + direct.magnitude(lows, highs)
    return _DirectBounds(lower, upper, error, size, magnitude)
