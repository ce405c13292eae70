"""Handlers of norms of an example's own values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_dyn.certification.convex_activations import Sqrt, Square
from robustbench_dyn.certification.network.graph import Direct
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.certification.network.operations.piecewise import absolute
from robustbench_dyn.certification.network.operations.steps import (
    applied,
    combined,
    reshaped,
    summed,
)
from robustbench_dyn.certification.network.trace import NodeRef


def _norm(context: OperationContext) -> NodeRef:
    """The L1 or the L2 norm over some dimensions."""
    given = dict(zip(("ord", "dim", "keepdim"), context.args[1:], strict=False))
    given |= context.operation.kwargs
    x, order, dims = context.args[0], float(given.get("ord", 2)), given.get("dim")
    rank = len(context.shapes[x.index]) + 1
    dims = sorted({dim % rank for dim in ([dims] if isinstance(dims, int) else dims or [0])})
    if 0 in dims:
        raise context.refuse(" over the batch")
    if order not in (1.0, 2.0) or given.get("dtype") is not None:
        raise context.refuse(f" of order {order:g}, or in another dtype")
    n = math.prod(context.shapes[x.index][dim - 1] for dim in dims)
    if order == 1:
        found = summed(context, absolute(context, x), dims, own_units=n + 2)
    else:
        found = _euclidean(context, x, dims, n)
    return reshaped(context, found, context.operation.shape)


def _euclidean(context: OperationContext, x: NodeRef, dims: list[int], n: int) -> NodeRef:
    """Add the root of the sum of squares over dimensions, which are kept with size 1."""
    kind = torch.finfo(context.model_dtype)
    units = n + 4

    def norm(z: Tensor) -> Tensor:
        return torch.linalg.vector_norm(z, dim=dims, keepdim=True)

    def interval(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        (low,), (high,) = lower, upper
        least = torch.maximum(low, -high).clamp_min(0.0)
        return norm(least), norm(torch.maximum(low.abs(), high.abs()))

    def error(errors: Sequence[Tensor], _low: Sequence[Tensor], _high: Sequence[Tensor]) -> Tensor:
        return norm(errors[0])

    def magnitude(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> Tensor:
        """What the rounding is a multiple of: squares may also overflow, or be flushed to zero."""
        size = norm(torch.maximum(lower[0].abs(), upper[0].abs()))
        flushed = math.sqrt(n * kind.tiny) / (units * kind.eps / 2)
        return (size + flushed).where(size < math.sqrt(kind.max) / 2, torch.inf)

    squares = summed(context, applied(context, Square().unrounded(), x), dims)
    root = applied(context, Sqrt().unrounded(), squares)
    direct = Direct((x.index,), interval, error, magnitude)
    return combined(context, [root], [context.constant(1.0)], own_units=units, direct=direct)


OPERATIONS: dict[str, Handler] = {"linalg_vector_norm": _norm}
