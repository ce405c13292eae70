"""Linear functions of one output, substituted back through the network to its input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import LinearBounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Network, Pointwise

_UNIT = 2.0**-53
# How many numbers the coefficients of one chunk of rows may hold, all outputs together: much larger
# ones leave the processor's caches.
_CHUNK = 2_000_000


class SubstitutedBound(NamedTuple):
    """The bound output(x) >= sum over sources of <coefficients[source][k], source> + offset[k].

    coefficients: by the output that they multiply, each (rows, *shape). offset: (rows,), float64;
    the rounding of everything before is subtracted. rounding: (rows,), how much less the output as
    the model computes it from those sources may be, by its own rounding.
    """

    coefficients: dict[int, Tensor]
    offset: Tensor
    rounding: Tensor


class LowerBounds(NamedTuple):
    """Lower bounds of linear functions of an output.

    value: (rows,), float64, in exact arithmetic. rounding: (rows,), float64. As the model computes
    it, a function is at least value - rounding.
    """

    value: Tensor
    rounding: Tensor


def back_substitute(
    network: Network,
    bounds: Bounds,
    k: int,
    rows: Tensor,
    owners: Tensor,
    linear_bounds: Mapping[int, LinearBounds],
    *,
    shared: bool = False,
    rounded: bool = True,
) -> SubstitutedBound:
    """Bound <rows[i], output k> from below by a linear function of earlier outputs.

    rows: (n, *shape of output k), of the network's dtype; owners: (n,), the example whose bounds a
    row uses. An activation's output is replaced by its lower line where its coefficient is positive
    and by its upper line elsewhere (CROWN, arXiv 1811.00866, Theorem 3.2; DeepPoly); one without
    linear bounds stays, as the input does. linear_bounds: by output, entries (n, *shape), each
    row's own; where they are shared, (examples, *shape), of which a row takes its owner's.
    rounded=False leaves the rounding out: that is quicker, good for a search and no proof.
    Rounding: a step from an output to its inputs errs by at most its relative rounding times the
    sum of the absolute values of all summands, which is <|coefficients|, bounds.magnitudes>. So
    does the model, by its own unit roundoff, and that is kept apart.
    """
    unit = torch.finfo(network.dtype).eps / 2
    waiting = {k: rows}
    kept: dict[int, Tensor] = {}
    offset = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    rounding = torch.zeros_like(offset)
    for i in range(k, 0, -1):
        if i not in waiting:
            continue
        coefficients = waiting.pop(i)
        node = network.nodes[i - 1]
        n = coefficients[0].numel()
        if isinstance(node, Pointwise):
            if i not in linear_bounds:
                kept[i] = coefficients
                continue
            line_owners = owners if shared else None
            passed, constant = _through(coefficients, linear_bounds[i], line_owners, rounded)
            offset = offset + constant
            if rounded:
                magnitude = bounds.magnitudes[node.inputs[0]]
                magnitude = magnitude if shared else magnitude[owners]
                magnitude = _line_magnitude(linear_bounds[i], magnitude, n, unit)
                offset = offset - unit * _abs_product(coefficients, magnitude, line_owners)
                share = node.activation.rounding_units * network.unit
                rounding = rounding + share * _abs_product(
                    coefficients, bounds.magnitudes[i], owners
                )
            parts: tuple[Tensor, ...] = (passed,)
        else:
            if node.bias is not None:
                offset = offset + _dot(coefficients, node.bias, rounded)
            if node.n_summands and rounded:
                share = (node.n_summands + 4) * unit + n * 4 * _UNIT
                total = _abs_product(coefficients, bounds.magnitudes[i], owners)
                offset = offset - share * total
                rounding = rounding + node.rounding_units * network.unit * total
            parts = node.adjoint(coefficients)
        for source, part in zip(node.inputs, parts, strict=True):
            if source not in waiting:
                waiting[source] = part
                continue
            waiting[source] = waiting[source] + part
            if rounded:
                merged = _abs_product(waiting[source], bounds.magnitudes[source], owners)
                offset = offset - 2 * unit * merged
    if 0 in waiting:
        kept[0] = waiting[0]
    return SubstitutedBound(kept, offset, rounding)


def concretise(bound: SubstitutedBound, ball: Ball, bounds: Bounds, owners: Tensor) -> Tensor:
    """Return the minimum of a bound, (rows,): exactly over the ball, over intervals elsewhere."""
    minimum = bound.offset
    for source, coefficients in bound.coefficients.items():
        if source == 0:
            minimum = minimum + ball.minimum(coefficients, owners)
            continue
        exact = coefficients.double()
        low, high = bounds.lower[source][owners], bounds.upper[source][owners]
        products = exact.clamp_min(0) * low + exact.clamp_max(0) * high
        rounding = (products[0].numel() + 8) * _UNIT * products.abs().flatten(1).sum(dim=1)
        minimum = minimum + products.flatten(1).sum(dim=1) - rounding
    # Where an activation is not defined everywhere, nothing is known.
    return minimum.where(~minimum.isnan(), -torch.inf)


def _through(
    coefficients: Tensor, linear_bounds: LinearBounds, owners: Tensor | None, rounded: bool
) -> tuple[Tensor, Tensor]:
    """Return coefficients on the argument of an activation, and the sum of the lines' offsets."""
    (lower_slope, lower_offset), (upper_slope, upper_offset) = linear_bounds
    # Slopes are rounded before they are repeated for each row; that is part of the magnitude.
    lower_slope, upper_slope = lower_slope.to(coefficients), upper_slope.to(coefficients)
    if owners is not None:
        lower_slope, upper_slope = lower_slope[owners], upper_slope[owners]
        lower_offset, upper_offset = lower_offset[owners], upper_offset[owners]
    positive = coefficients > 0
    passed = coefficients * torch.where(positive, lower_slope, upper_slope)
    return passed, _dot(coefficients, torch.where(positive, lower_offset, upper_offset), rounded)


@torch.no_grad()
def _line_magnitude(linear_bounds: LinearBounds, magnitude: Tensor, n: int, unit: float) -> Tensor:
    """Return |slope z| and n |offset| in units of the dtype, entry by entry, as one magnitude."""
    slopes = torch.maximum(linear_bounds.lower.slope.abs(), linear_bounds.upper.slope.abs())
    offsets = torch.maximum(linear_bounds.lower.offset.abs(), linear_bounds.upper.offset.abs())
    # The dot product with the offsets is taken in float64.
    return 4 * slopes * magnitude + (n * 4 * _UNIT / unit + 2) * offsets


def _dot(coefficients: Tensor, values: Tensor, in_float64: bool) -> Tensor:
    """Return sums of products over each row, (rows,); values broadcast."""
    dtype = torch.float64 if in_float64 else coefficients.dtype
    return (coefficients.to(dtype) * values.to(dtype)).flatten(1).sum(dim=1)


@torch.no_grad()
def _abs_product(coefficients: Tensor, magnitude: Tensor, owners: Tensor | None) -> Tensor:
    """Return at least <|coefficients[k]|, magnitude[owners[k]]>, (rows,), float64.

    magnitude: at least 0. The product bounds rounding itself: the dtype of the coefficients is fine
    enough, if its own rounding is counted. A sum that overflows counts as infinite.
    """
    kind = torch.finfo(coefficients.dtype)
    magnitude = (magnitude + kind.tiny).to(coefficients)
    products = coefficients * (magnitude if owners is None else magnitude[owners])
    products = products.flatten(1)
    total, n = torch.linalg.vector_norm(products, ord=1, dim=1).double(), products.shape[1]
    most = total * (1 + (n + 8) * kind.eps) + 2 * n * kind.tiny
    return most.nan_to_num(nan=torch.inf, posinf=torch.inf)


def objective_bounds(
    network: Network,
    bounds: Bounds,
    ball: Ball,
    coefficients: Tensor,
    owners: Tensor,
    *,
    linear_bounds: Mapping[int, LinearBounds],
) -> LowerBounds:
    """Return lower bounds of <coefficients[k], logits> over the ball of owners[k], (n,).

    coefficients: (n, classes). linear_bounds: of the examples, by output; an activation without is
    bounded by its interval.
    """
    last = len(network.nodes)
    nothing = coefficients.new_zeros(0, dtype=torch.float64)
    values, roundings = [nothing], [nothing]
    for rows in chunks(network, len(coefficients)):
        bound = back_substitute(
            network,
            bounds,
            last,
            coefficients[rows].to(network.dtype),
            owners[rows],
            linear_bounds,
            shared=True,
        )
        values.append(concretise(bound, ball, bounds, owners[rows]))
        roundings.append(bound.rounding)
    return LowerBounds(torch.cat(values), torch.cat(roundings))


def chunks(
    network: Network, n_rows: int, *, factor: int = 1, up_to: int | None = None
) -> Iterator[slice]:
    """Split rows so that their coefficients, `factor` times, on outputs up to up_to fit memory."""
    shapes = [network.shape(k) for k in range((up_to or len(network.nodes)) + 1)]
    numbers = factor * sum(map(math.prod, shapes))
    size = max(1, _CHUNK // numbers)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))
