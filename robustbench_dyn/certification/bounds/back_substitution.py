"""Linear functions of one output, substituted back through the network to its input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.activations import LinearBounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.groups import Pick, grouped, of_examples
from robustbench_dyn.certification.bounds.inner_products import (
    abs_products,
    box_minimum,
    inner_products,
    rounding_share,
)
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.network.graph import Affine, Network, Node
from robustbench_dyn.certification.patience import look_at_time

# How many numbers the coefficients of one chunk of rows may hold, all outputs together. Of a deep
# network that is dozens of rows, as each of its many steps has a cost of its own; larger chunks
# gain nothing, and take memory.
CHUNK = 8_000_000


class SubstitutedBound(NamedTuple):
    """The bound output(x) >= sum over sources of <coefficients[source][k], source> + offset[k].

    coefficients: by the output that they multiply, each (groups, rows, entries). offset: (groups,
    rows), float64; the rounding of everything before is subtracted. rounding: (groups, rows), how
    much less the output as the model computes it from those sources may be, by its own rounding.
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
    pick: Pick,
    linear_bounds: Mapping[int, LinearBounds],
    *,
    shared: bool = True,
    rounded: bool = True,
) -> SubstitutedBound:
    """Bound <rows[g, i], output k> from below by a linear function of earlier outputs.

    rows: (groups, rows, entries of output k), of the network's dtype; pick: gives each group its
    part of the bounds. An activation's output is replaced by its lower line where its coefficient
    is positive and by its upper line elsewhere (CROWN, arXiv 1811.00866, Theorem 3.2; DeepPoly);
    one without linear bounds stays, as the input does. linear_bounds: by output, entries
    (examples, *shape), of which pick gives each group its own; where they are not shared, (groups,
    *shape), each group's own.
    rounded=False leaves the rounding out: that is quicker, good for a search and no proof.
    Rounding: a step from an output to its inputs errs by at most its relative rounding times the
    sum of the absolute values of all summands, which is <|coefficients|, bounds.magnitudes>. So
    does the model, by its own unit roundoff, and that is kept apart.
    """
    unit = torch.finfo(network.dtype).eps / 2
    waiting = {k: rows}
    kept: dict[int, Tensor] = {}
    offset = torch.zeros(rows.shape[:2], dtype=torch.float64, device=rows.device)
    rounding = torch.zeros_like(offset)
    for i in range(k, 0, -1):
        if i not in waiting:
            continue
        look_at_time()
        coefficients = waiting.pop(i)
        node = network.nodes[i - 1]
        if isinstance(node, Affine):
            magnitude = pick(bounds.magnitudes[i], i) if rounded else None
            step = _affine_step(node, coefficients, magnitude)
        elif i in linear_bounds:
            lines = _Lines.of(linear_bounds[i], coefficients, pick if shared else None, i)
            picked = [pick(bounds.magnitudes[j], j) for j in (node.inputs[0], i) if rounded]
            step = _activation_step(lines, coefficients, picked)
        else:
            kept[i] = coefficients
            continue
        offset = offset + step.offset
        rounding = rounding + _rounding_units(node) * network.unit * step.total
        for source, part in zip(node.inputs, step.parts, strict=True):
            if source not in waiting:
                waiting[source] = part
                continue
            waiting[source] = waiting[source] + part
            if rounded:
                magnitude = pick(bounds.magnitudes[source], source)
                merged = abs_products(waiting[source].abs(), magnitude[:, None])
                offset = offset - 2 * unit * merged[:, 0]
    if 0 in waiting:
        kept[0] = waiting[0]
    return SubstitutedBound(kept, offset, rounding)


def _rounding_units(node: Node) -> int:
    """Return how many units roundoff of its magnitude the model's output of a node may err by."""
    return node.rounding_units if isinstance(node, Affine) else node.activation.rounding_units


class _Step(NamedTuple):
    """A step from an output to its inputs.

    parts: coefficients on each input, (groups, rows, entries). offset: (groups, rows), what the
    step adds, less what it may lose by rounding. total: (groups, rows), at least <|coefficients|,
    magnitude of the output>; 0 where rounding is left out.
    """

    parts: tuple[Tensor, ...]
    offset: Tensor
    total: Tensor | float


def _affine_step(node: Affine, coefficients: Tensor, magnitude: Tensor | None) -> _Step:
    """Step through an affine node; magnitude: (groups, entries), None to leave out rounding."""
    n_groups, n_rows, _ = coefficients.shape
    # Outputs may be empty, so that no size is left to be inferred.
    found = node.adjoint(coefficients.reshape(n_groups * n_rows, *node.shape))
    parts = tuple(part.flatten(1).view(n_groups, n_rows, part[0].numel()) for part in found)
    offset, total = coefficients.new_zeros((), dtype=torch.float64), 0.0
    bias = _bias(node)
    if bias is not None:
        offset = inner_products(coefficients, bias)[:, 0]
    if magnitude is None or not (node.adjoint_units or bias is not None):
        return _Step(parts, offset, total)
    lost = node.adjoint_units * torch.finfo(coefficients.dtype).eps / 2 * magnitude
    if bias is not None:
        lost = lost + rounding_share(coefficients) * bias[:, 0].abs()
    both = abs_products(coefficients.abs(), torch.stack([lost, magnitude], dim=1))
    return _Step(parts, offset - both[:, 0], both[:, 1])


def _activation_step(lines: _Lines, coefficients: Tensor, magnitudes: list[Tensor]) -> _Step:
    """Step through an activation; magnitudes: of input and output, none to leave out rounding."""
    sizes = coefficients.abs()
    passed = torch.addcmul(coefficients * lines.slope, sizes, lines.half_slope)
    offset = inner_products(coefficients, lines.offset) + inner_products(sizes, lines.half_offset)
    if not magnitudes:
        return _Step((passed,), offset[:, 0], 0.0)
    before, magnitude = magnitudes
    both = abs_products(sizes, torch.stack([lines.rounding(before), magnitude], dim=1))
    return _Step((passed,), offset[:, 0] - both[:, 0], both[:, 1])


def concretise(bound: SubstitutedBound, ball: Ball, bounds: Bounds, pick: Pick) -> Tensor:
    """Return the minimum of a bound, (groups, rows): over the ball, over intervals elsewhere."""
    minimum = bound.offset
    for source, coefficients in bound.coefficients.items():
        if source == 0:
            minimum = minimum + ball.minima(coefficients, pick)
            continue
        low, high = (pick(end[source], source) for end in (bounds.lower, bounds.upper))
        minimum = minimum + box_minimum(coefficients, low, high)
    # Where an activation is not defined everywhere, nothing is known.
    return minimum.where(~minimum.isnan(), -torch.inf)


class _Lines(NamedTuple):
    """The lines of one activation: what they have in common, and half of what they differ by.

    c (slope z + offset) + |c| (half_slope z + half_offset) is the lower line times c where c is
    positive, and the upper line times c elsewhere. All: (groups, 1, entries).
    """

    slope: Tensor
    half_slope: Tensor
    offset: Tensor
    half_offset: Tensor

    @classmethod
    def of(cls, lines: LinearBounds, coefficients: Tensor, pick: Pick | None, i: int) -> _Lines:
        """Return the lines of each group; they are of output i."""
        found = []
        for lower, upper in zip(*lines, strict=True):
            for part in ((lower + upper) / 2, (lower - upper) / 2):
                found.append((part.flatten(1) if pick is None else pick(part, i))[:, None])
        slope, half_slope, offset, half_offset = found
        return cls(slope.to(coefficients), half_slope.to(coefficients), offset, half_offset)

    @torch.no_grad()
    def rounding(self, magnitude: Tensor) -> Tensor:
        """Return what a coefficient of 1 may lose by rounding, (groups, entries).

        magnitude: of the argument. Slopes are rounded to the dtype, and so are products and sums
        with them: three units of the larger slope's size, which is |slope| + |half_slope|.
        """
        slopes = (self.slope.abs() + self.half_slope.abs())[:, 0]
        offsets = (self.offset.abs() + self.half_offset.abs())[:, 0]
        units = 4 * torch.finfo(slopes.dtype).eps / 2
        return units * slopes * magnitude + rounding_share(self.slope) * offsets


def _bias(node: Affine) -> Tensor | None:
    """Return the bias of each entry, (groups or 1, 1, entries)."""
    if node.bias is None:
        return None
    bias = node.bias
    groups = bias.shape[0] if bias.dim() > len(node.shape) else 1
    return bias.expand(groups, *node.shape).flatten(1)[:, None]


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
    value = coefficients.new_zeros(len(coefficients), dtype=torch.float64)
    rounding = torch.zeros_like(value)
    coefficients = coefficients.to(network.dtype)
    for examples, rows in grouped(owners, network.n_numbers, CHUNK):
        pick = of_examples(examples)
        last = len(network.nodes)
        bound = back_substitute(network, bounds, last, coefficients[rows], pick, linear_bounds)
        value[rows] = concretise(bound, ball, bounds, pick)
        rounding[rows] = bound.rounding
    return LowerBounds(value, rounding)


def chunks(network: Network, n_rows: int, k: int, *, factor: int = 1) -> Iterator[slice]:
    """Split rows so that their coefficients, `factor` times, on outputs up to k fit memory."""
    size = max(1, CHUNK // (factor * network.numbers_up_to(k)))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))
