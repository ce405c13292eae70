"""Maxima, minima and functions with kinks, as affine maps and ReLUs.

max(a, b) = b + relu(a - b), and a function of one number that is linear between kinks t_1, t_2, ...
is a line plus a multiple of relu(z - t_i) for each. So each is a network of ReLUs, which a search
can split. The model itself only chooses between numbers: the differences are steps that it does not
compute and that do not round; `Direct` bounds carry over that a maximum lies between the maxima of
bounds, and errs by no more than its larger error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.network.graph import Direct
from robustbench_dyn.certification.network.operations.base import OperationContext
from robustbench_dyn.certification.network.operations.steps import combined, relu
from robustbench_dyn.certification.network.trace import NodeRef


class Kink(NamedTuple):
    """The slope changes by `change` at `at`, entry by entry."""

    at: Tensor
    change: Tensor


class Ordered(NamedTuple):
    """The larger and the smaller one of two values, entry by entry."""

    larger: NodeRef
    smaller: NodeRef


def piecewise_linear(
    context: OperationContext,
    z: NodeRef,
    function: Callable[[Tensor], Tensor],
    *,
    slope: Tensor,
    offset: Tensor,
    kinks: Sequence[Kink],
    own_units: int = 1,
) -> NodeRef:
    """Add slope z + offset + the sum of change_i relu(z - at_i), which is `function` of z.

    Slopes, offsets and kinks are constants for one example, entry by entry. own_units: how many
    units roundoff the model's own computation errs by.
    """
    one = context.constant(1.0)
    parts, factors, slopes = [z], [slope], [slope]
    for at, change in kinks:
        shifted = z if not at.any() else combined(context, [z], [one], bias=-at)
        parts.append(relu(context, shifted))
        factors.append(change)
        slopes.append(slopes[-1] + change)
    steepest = slopes[0].abs()
    for one_slope in slopes[1:]:
        steepest = steepest.maximum(one_slope.abs())
    points = [at for at, _ in kinks]

    def interval(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        (low,), (high,) = lower, upper
        ends = [low, high, *(torch.clamp(at.to(low), low, high) for at in points)]
        values = torch.stack([function(end) for end in ends])
        return values.amin(dim=0), values.amax(dim=0)

    direct = Direct((z.index,), interval, lambda errors, _low, _high: errors[0] * steepest)
    return combined(
        context,
        parts,
        factors,
        bias=offset if offset.any() else None,
        own_units=own_units,
        direct=direct,
    )


def ordered(context: OperationContext, a: NodeRef, b: NodeRef) -> Ordered:
    """Add the larger and the smaller one of two values of one shape: b + r, a - r for r the excess.

    r = relu(a - b), which both share.
    """
    excess = _excess(context, a, b)
    return Ordered(_larger(context, a, b, excess), _smaller(context, a, b, excess))


def maximum(context: OperationContext, a: NodeRef, b: NodeRef) -> NodeRef:
    """Add the larger one of two values of one shape, entry by entry."""
    return _larger(context, a, b, _excess(context, a, b))


def minimum(context: OperationContext, a: NodeRef, b: NodeRef) -> NodeRef:
    """Add the smaller one of two values of one shape, entry by entry."""
    return _smaller(context, a, b, _excess(context, a, b))


def _excess(context: OperationContext, a: NodeRef, b: NodeRef) -> NodeRef:
    one = context.constant(1.0)
    return relu(context, combined(context, [a, b], [one, -one]))


def _larger(context: OperationContext, a: NodeRef, b: NodeRef, excess: NodeRef) -> NodeRef:
    one = context.constant(1.0)
    direct = Direct((a.index, b.index), _larger_ends, _larger_error)
    # A comparison does not round, but may take a denormal number for 0, as one unit covers.
    return combined(context, [b, excess], [one, one], own_units=1, direct=direct)


def _smaller(context: OperationContext, a: NodeRef, b: NodeRef, excess: NodeRef) -> NodeRef:
    one = context.constant(1.0)
    direct = Direct((a.index, b.index), _smaller_ends, _larger_error)
    return combined(context, [a, excess], [one, -one], own_units=1, direct=direct)


def _larger_ends(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.maximum(*lower), torch.maximum(*upper)


def _smaller_ends(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.minimum(*lower), torch.minimum(*upper)


def _larger_error(
    errors: Sequence[Tensor], _lower: Sequence[Tensor], _upper: Sequence[Tensor]
) -> Tensor:
    """|max(a, b) - max(c, d)| is at most the larger one of |a - c| and |b - d|."""
    return torch.maximum(*errors)
