"""Linear functions of one value, carried back through the network to its input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import Line, Lines
from robustbench_dyn.certification.balls import Ball
from robustbench_dyn.certification.bounds import Bounds
from robustbench_dyn.certification.network import Network, Pointwise

_UNIT = 2.0**-53
# How many numbers the coefficients of one chunk of rows may hold, all values together.
_CHUNK = 24_000_000


class LinearBound(NamedTuple):
    """value(x) >= sum over sources of <coefficients[source][k], source> + offset[k].

    coefficients: by the value that they multiply, each (rows, *shape). offset: (rows,), float64;
    the rounding of everything before is taken off.
    """

    coefficients: dict[int, Tensor]
    offset: Tensor


def substitute(
    network: Network,
    bounds: Bounds,
    value: int,
    rows: Tensor,
    owner: Tensor,
    lines: Mapping[int, Lines],
) -> LinearBound:
    """Bound <rows[k], value> from below by a linear function of earlier values.

    rows: (n, *shape of value), of the network's dtype; owner: (n,), whose bounds a row uses. An
    activation's value is replaced by its lower line where its coefficient is positive and by its
    upper line elsewhere (CROWN, arXiv 1811.00866, Theorem 3.2; DeepPoly); one that `lines` does
    not name stays, as the input does. lines: by value, entries (n, *shape).
    Rounding: a step from value to inputs errs by at most its relative rounding times the sum of
    the absolute values of all terms, which is <|coefficients|, bounds.terms>.
    """
    unit = torch.finfo(network.dtype).eps / 2
    waiting = {value: rows}
    kept: dict[int, Tensor] = {}
    offset = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for k in range(value, 0, -1):
        if k not in waiting:
            continue
        coefficients = waiting.pop(k)
        node = network.nodes[k - 1]
        if isinstance(node, Pointwise):
            if k not in lines:
                kept[k] = coefficients
                continue
            passed, constant = _through(coefficients, lines[k])
            offset = (
                offset
                + constant
                - unit * _roundings(coefficients, lines[k], bounds.terms[node.inputs[0]][owner])
            )
            parts: tuple[Tensor, ...] = (passed,)
        else:
            if node.bias is not None:
                offset = offset + _dot(coefficients, node.bias)
            if node.terms:
                share = (node.terms + 4) * unit + coefficients[0].numel() * 4 * _UNIT
                offset = offset - share * _dot(coefficients.abs(), bounds.terms[k], owner).detach()
            parts = node.adjoint(coefficients)
        for source, part in zip(node.inputs, parts, strict=True):
            if source not in waiting:
                waiting[source] = part
                continue
            waiting[source] = waiting[source] + part
            merged = _dot(waiting[source].abs(), bounds.terms[source], owner).detach()
            offset = offset - 2 * unit * merged
    if 0 in waiting:
        kept[0] = waiting[0]
    return LinearBound(kept, offset)


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


def _through(coefficients: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
    positive, negative = coefficients.clamp_min(0), coefficients.clamp_max(0)
    lower, upper = lines
    passed = positive * lower.slope.to(coefficients) + negative * upper.slope.to(coefficients)
    constant = _dot(positive, lower.offset) + _dot(negative, upper.offset)
    return passed, constant


def _roundings(coefficients: Tensor, lines: Lines, terms: Tensor) -> Tensor:
    """Return <|coefficients|, |slope z| + n |offset|> in units of the dtype, (rows,)."""
    with torch.no_grad():
        steepest = torch.maximum(lines.lower.slope.abs(), lines.upper.slope.abs())
        offsets = torch.maximum(lines.lower.offset.abs(), lines.upper.offset.abs())
        # The dot product with the offsets is taken in float64.
        share = coefficients[0].numel() * 4 * _UNIT / (torch.finfo(coefficients.dtype).eps / 2)
        return _dot(coefficients.abs(), 4 * steepest * terms + (share + 2) * offsets)


def _dot(coefficients: Tensor, values: Tensor, owner: Tensor | None = None) -> Tensor:
    """Return sums of products over each row in float64, (rows,); values broadcast."""
    if owner is not None:
        values = values[owner]
    return (coefficients.double() * values.double()).flatten(1).sum(dim=1)


def gather(lines: Lines, owner: Tensor) -> Lines:
    """Return each row's lines from those of the examples."""
    (low, low_offset), (high, high_offset) = lines
    return Lines(Line(low[owner], low_offset[owner]), Line(high[owner], high_offset[owner]))


def difference_bounds(
    network: Network, bounds: Bounds, ball: Ball, differences: Tensor, owner: Tensor,
    *, lines: Mapping[int, Lines],
) -> Tensor:  # fmt: skip
    """Return lower bounds of <differences[k], logits> over the ball of owner[k], (n,), float64.

    differences: (n, classes). lines: of the examples, by value; an activation without is bounded
    by its interval.
    """
    last = len(network.nodes)
    found = [differences.new_zeros(0, dtype=torch.float64)]
    for rows in chunks(network, len(differences)):
        of_rows = {k: gather(of_all, owner[rows]) for k, of_all in lines.items()}
        bound = substitute(
            network, bounds, last, differences[rows].to(network.dtype), owner[rows], of_rows
        )
        found.append(concretise(bound, ball, bounds, owner[rows]))
    return torch.cat(found)


def chunks(
    network: Network, n_rows: int, *, factor: int = 1, upto: int | None = None
) -> Iterator[slice]:
    """Split rows so that their coefficients, `factor` times, on values up to `upto` fit memory."""
    shapes = [network.shape(k) for k in range((upto or len(network.nodes)) + 1)]
    numbers = factor * sum(map(math.prod, shapes))
    size = max(1, _CHUNK // numbers)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))
