"""Linear functions of one value, carried back through the network to its input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Lines
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Network, Pointwise

_UNIT = 2.0**-53
# How many numbers the coefficients of one chunk of rows may hold, all values together: what is much
# larger leaves the processor's caches.
_CHUNK = 4_000_000


class LinearBound(NamedTuple):
    """value(x) >= sum over sources of <coefficients[source][k], source> + offset[k].

    coefficients: by the value that they multiply, each (rows, *shape). offset: (rows,), float64;
    the rounding of everything before is taken off. rounding: (rows,), what the value as the model
    computes it from those sources may be less than that, by its own rounding.
    """

    coefficients: dict[int, Tensor]
    offset: Tensor
    rounding: Tensor


class Least(NamedTuple):
    """Lower bounds of linear functions of a value in exact arithmetic, and of their rounding.

    value, rounding: (rows,), float64. As the model computes it, a function is at least
    value - rounding.
    """

    value: Tensor
    rounding: Tensor


def substitute(
    network: Network, bounds: Bounds, value: int, rows: Tensor, owner: Tensor,
    lines: Mapping[int, Lines], *, shared: bool = False, rounded: bool = True,
) -> LinearBound:  # fmt: skip
    """Bound <rows[k], value> from below by a linear function of earlier values.

    rows: (n, *shape of value), of the network's dtype; owner: (n,), whose bounds a row uses. An
    activation's value is replaced by its lower line where its coefficient is positive and by its
    upper line elsewhere (CROWN, arXiv 1811.00866, Theorem 3.2; DeepPoly); one that `lines` does
    not name stays, as the input does. lines: by value, entries (n, *shape), each row's own; where
    they are shared, (examples, *shape), of which a row takes its owner's. rounded=False leaves the
    rounding out: that is quicker, good for a search and no proof.
    Rounding: a step from value to inputs errs by at most its relative rounding times the sum of
    the absolute values of all terms, which is <|coefficients|, bounds.terms>. So does the model, by
    its own unit roundoff, and that is kept apart.
    """
    unit = torch.finfo(network.dtype).eps / 2
    waiting = {value: rows}
    kept: dict[int, Tensor] = {}
    offset = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    rounding = torch.zeros_like(offset)
    for k in range(value, 0, -1):
        if k not in waiting:
            continue
        coefficients = waiting.pop(k)
        node = network.nodes[k - 1]
        n = coefficients[0].numel()
        if isinstance(node, Pointwise):
            if k not in lines:
                kept[k] = coefficients
                continue
            of_lines = owner if shared else None
            passed, constant = _through(coefficients, lines[k], of_lines, rounded)
            offset = offset + constant
            if rounded:
                terms = bounds.terms[node.inputs[0]]
                sizes = _sizes(lines[k], terms if shared else terms[owner], n, unit)
                offset = offset - unit * _at_most(coefficients, sizes, of_lines)
                share = node.activation.units * network.unit
                rounding = rounding + share * _at_most(coefficients, bounds.terms[k], owner)
            parts: tuple[Tensor, ...] = (passed,)
        else:
            if node.bias is not None:
                offset = offset + _dot(coefficients, node.bias, rounded)
            if node.terms and rounded:
                share = (node.terms + 4) * unit + n * 4 * _UNIT
                terms = _at_most(coefficients, bounds.terms[k], owner)
                offset = offset - share * terms
                rounding = rounding + node.rounding * network.unit * terms
            parts = node.adjoint(coefficients)
        for source, part in zip(node.inputs, parts, strict=True):
            if source not in waiting:
                waiting[source] = part
                continue
            waiting[source] = waiting[source] + part
            if rounded:
                merged = _at_most(waiting[source], bounds.terms[source], owner)
                offset = offset - 2 * unit * merged
    if 0 in waiting:
        kept[0] = waiting[0]
    return LinearBound(kept, offset, rounding)


def concretise(bound: LinearBound, ball: Ball, bounds: Bounds, owner: Tensor) -> Tensor:
    """Return the least value of a LinearBound: exactly over the ball, over intervals elsewhere."""
    least = bound.offset
    for source, coefficients in bound.coefficients.items():
        wide = coefficients.double()
        if source == 0:
            least = least + ball.minimum(wide, owner)
            continue
        low, high = bounds.lower[source][owner], bounds.upper[source][owner]
        terms = wide.clamp_min(0) * low + wide.clamp_max(0) * high
        rounding = (terms[0].numel() + 8) * _UNIT * terms.abs().flatten(1).sum(dim=1)
        least = least + terms.flatten(1).sum(dim=1) - rounding
    return least


def _through(
    coefficients: Tensor, lines: Lines, owner: Tensor | None, rounded: bool
) -> tuple[Tensor, Tensor]:
    """Return coefficients on the argument of an activation, and the sum of the lines' offsets."""
    (low_slope, low_offset), (high_slope, high_offset) = lines
    # Slopes are rounded before there is one of each row; their rounding is part of the sizes.
    low_slope, high_slope = low_slope.to(coefficients), high_slope.to(coefficients)
    if owner is not None:
        low_slope, high_slope = low_slope[owner], high_slope[owner]
        low_offset, high_offset = low_offset[owner], high_offset[owner]
    positive = coefficients > 0
    passed = coefficients * torch.where(positive, low_slope, high_slope)
    return passed, _dot(coefficients, torch.where(positive, low_offset, high_offset), rounded)


@torch.no_grad()
def _sizes(lines: Lines, terms: Tensor, n: int, unit: float) -> Tensor:
    """Return |slope z| and n |offset| in units of the dtype, entry by entry, as terms."""
    steepest = torch.maximum(lines.lower.slope.abs(), lines.upper.slope.abs())
    offsets = torch.maximum(lines.lower.offset.abs(), lines.upper.offset.abs())
    # The dot product with the offsets is taken in float64.
    return 4 * steepest * terms + (n * 4 * _UNIT / unit + 2) * offsets


def _dot(coefficients: Tensor, values: Tensor, in_float64: bool) -> Tensor:
    """Return sums of products over each row, (rows,); values broadcast."""
    dtype = torch.float64 if in_float64 else coefficients.dtype
    return (coefficients.to(dtype) * values.to(dtype)).flatten(1).sum(dim=1)


@torch.no_grad()
def _at_most(coefficients: Tensor, sizes: Tensor, owner: Tensor | None) -> Tensor:
    """Return no less than <|coefficients[k]|, sizes[owner[k]]>, (rows,), float64; sizes >= 0.

    What is measured is rounding itself: the dtype of the coefficients is fine enough, if its own
    is counted. What overflows counts as infinite.
    """
    kind = torch.finfo(coefficients.dtype)
    sizes = (sizes + kind.tiny).to(coefficients)
    terms = (coefficients * (sizes if owner is None else sizes[owner])).flatten(1)
    about, n = torch.linalg.vector_norm(terms, ord=1, dim=1).double(), terms.shape[1]
    most = about * (1 + (n + 8) * kind.eps) + 2 * n * kind.tiny
    return most.nan_to_num(nan=torch.inf, posinf=torch.inf)


def difference_bounds(
    network: Network, bounds: Bounds, ball: Ball, differences: Tensor, owner: Tensor,
    *, lines: Mapping[int, Lines],
) -> Least:  # fmt: skip
    """Return lower bounds of <differences[k], logits> over the ball of owner[k], (n,).

    differences: (n, classes). lines: of the examples, by value; an activation without is bounded
    by its interval.
    """
    last = len(network.nodes)
    nothing = differences.new_zeros(0, dtype=torch.float64)
    found, roundings = [nothing], [nothing]
    for rows in chunks(network, len(differences)):
        bound = substitute(
            network, bounds, last, differences[rows].to(network.dtype), owner[rows], lines,
            shared=True,
        )  # fmt: skip
        found.append(concretise(bound, ball, bounds, owner[rows]))
        roundings.append(bound.rounding)
    return Least(torch.cat(found), torch.cat(roundings))


def chunks(
    network: Network, n_rows: int, *, factor: int = 1, upto: int | None = None
) -> Iterator[slice]:
    """Split rows so that their coefficients, `factor` times, on values up to `upto` fit memory."""
    shapes = [network.shape(k) for k in range((upto or len(network.nodes)) + 1)]
    numbers = factor * sum(map(math.prod, shapes))
    size = max(1, _CHUNK // numbers)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))
