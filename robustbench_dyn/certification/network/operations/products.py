"""Products of values that both depend on the input, quotients, and sums of products.

x y = ((x + y)^2 - (x - y)^2) / 4: two squares, each of which has its lines. Where x and y are about
equally wide, that is as tight as the planes of McCormick (Math. Programming 10, 1976) on average,
and it is tighter where they are correlated, since the bounds of x + y and x - y are found by
back-substitution. Interval bounds are those of the product itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_dyn.certification.convex_activations import Reciprocal, Square
from robustbench_dyn.certification.network.graph import Direct
from robustbench_dyn.certification.network.operations.base import OperationContext
from robustbench_dyn.certification.network.operations.steps import (
    applied,
    combined,
    expanded,
    reshaped,
    summed,
    transposed,
)
from robustbench_dyn.certification.network.trace import NodeRef

# Matrix products of more are not bounded: each is a value of its own, in several steps.
_MOST_PRODUCTS = 10_000_000


def product(context: OperationContext, a: NodeRef, b: NodeRef, *, own_units: int = 2) -> NodeRef:
    """Add a b, entry by entry, of two values of one shape.

    own_units: how many units roundoff the model's own product errs by.
    """
    if a == b:
        square = Square()
        square.rounding_units = own_units
        return applied(context, square, a)
    one, quarter = context.constant(1.0), context.constant(0.25)
    squares = [
        applied(context, Square().unrounded(), combined(context, [a, b], [one, sign]))
        for sign in (one, -one)
    ]
    direct = Direct((a.index, b.index), _product_ends, _product_error, _nothing)
    factors = [quarter, -quarter]
    return combined(context, squares, factors, own_units=own_units, direct=direct)


def quotient(context: OperationContext, a: NodeRef, b: NodeRef) -> NodeRef:
    """Add a / b, entry by entry; nothing is known where b may be 0."""
    inverse = applied(context, Reciprocal().unrounded(), b)
    return product(context, a, inverse, own_units=4)


def matrix_product(context: OperationContext, a: NodeRef, b: NodeRef) -> NodeRef:
    """Add the matrix products of a, (..., n, k), and b, (..., k, m)."""
    *outer, n, k = context.shapes[a.index]
    m = context.shapes[b.index][-1]
    full = (*outer, n, m, k)
    if math.prod(full) > _MOST_PRODUCTS:
        raise context.refuse(f" of {math.prod(full)} products, more than {_MOST_PRODUCTS}")
    first = expanded(context, reshaped(context, a, (*outer, n, 1, k)), full)
    second = reshaped(context, transposed(context, b, -1, -2), (*outer, 1, m, k))
    products = product(context, first, expanded(context, second, full))
    # The model sums k products, in any order.
    total = summed(context, products, [len(full)], own_units=k + 2)
    return reshaped(context, total, (*outer, n, m))


def _product_ends(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    (low, other_low), (high, other_high) = lower, upper
    products = [a * b for a in (low, high) for b in (other_low, other_high)]
    corners = torch.stack(products)
    return corners.amin(dim=0), corners.amax(dim=0)


def _product_error(
    errors: Sequence[Tensor], lower: Sequence[Tensor], upper: Sequence[Tensor]
) -> Tensor:
    """|a b - c d| is at most |a| |b - d| + |a - c| |d|."""
    sizes = [torch.maximum(low.abs(), high.abs()) for low, high in zip(lower, upper, strict=True)]
    return sizes[0] * errors[1] + errors[0] * sizes[1]


def _nothing(lower: Sequence[Tensor], _upper: Sequence[Tensor]) -> Tensor:
    """The model's product rounds by its own size."""
    return torch.zeros_like(lower[0])
