"""Handlers of normalisations over an example's own values.

A normalised value is (x - mean) / sqrt(variance + eps), with a mean, a variance and a product that
depend on the input: bounds hold, and are loose where the ball is wide against the variance. That no
one of n normalised values exceeds sqrt(n - 1) bounds them in any case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_dyn.certification.convex_activations import Rsqrt, Square
from robustbench_dyn.certification.network.graph import Affine, Direct, Node
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.certification.network.operations.products import product
from robustbench_dyn.certification.network.operations.steps import (
    applied,
    combined,
    expanded,
    reshaped,
    summed,
)
from robustbench_dyn.certification.network.trace import NodeRef


def _normalised(context: OperationContext, x: NodeRef, eps: float) -> NodeRef:
    """Add (x - mean) / sqrt(variance + eps), with means over the last dimension."""
    shape = context.shapes[x.index]
    n, one = shape[-1], context.constant(1.0)
    limit = math.sqrt(n - 1)
    unit, units = torch.finfo(context.model_dtype).eps / 2, 2 * (n + 9)
    if not eps > 0:
        raise context.refuse(f" with eps {eps:g}")
    deviation, variance = _moments(context, x)

    def inverse_scale(lower: Tensor) -> Tensor:
        return torch.rsqrt(lower.clamp_min(eps)) * (1 + 2.0**-10)

    def interval(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        most = torch.full_like(lower[0], limit)
        most = most.where(lower[0].isfinite() & upper[0].isfinite(), torch.inf)
        return -most, most

    def error(errors: Sequence[Tensor], lower: Sequence[Tensor], upper: Sequence[Tensor]) -> Tensor:
        """d / s - d' / s' = (d - d') / s + (d' / s') (s' - s) / s, for deviations d and scales s.

        Where x moves by e, entry by entry, d moves by no more than e plus its mean, and s, which
        is a norm over sqrt(n), by no more than the root of the mean of e^2. |d' / s'| is bounded.
        """
        moved = errors[0]
        most = torch.maximum(lower[2].abs(), upper[2].abs()).fmin(lower[2].new_tensor(limit))
        deviation = moved + moved.mean(dim=-1, keepdim=True)
        scale = moved.square().mean(dim=-1, keepdim=True).sqrt()
        return (deviation + most * scale) * inverse_scale(lower[1])

    def magnitude(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> Tensor:
        """What the model's rounding is a multiple of; t is the root of the mean of x^2 over s.

        However the moments are summed: the mean errs by at most n + 1 units of t s; the variance,
        as E x^2 - mean^2 too, by 3 n + 6 units of t^2 s^2, and the inverse of the scale by a little
        more than half as many relatively, where that is small. Entries x / s and mean / s round by
        themselves. What the model computes is at most 3 |x| / sqrt(eps), however it rounds.
        """
        sizes = torch.maximum(lower[0].abs(), upper[0].abs())
        inverse = inverse_scale(lower[1]) * (1 + 2.0**-10)
        t = sizes.square().mean(dim=-1, keepdim=True).sqrt() * inverse
        most = torch.maximum(lower[2].abs(), upper[2].abs()).fmin(lower[2].new_tensor(limit))
        size = t + sizes * inverse + most * t.square()
        known = (3 * n + 6) * unit * t.square() <= 0.1
        largest = sizes.amax(dim=-1, keepdim=True)
        cap = (limit + 3 * largest / math.sqrt(eps)) / (units * unit)
        return size.where(known, cap)

    shifted = combined(context, [variance], [one], bias=context.constant(eps))
    inverse = applied(context, Rsqrt(eps).unrounded(), shifted)
    found = product(context, deviation, expanded(context, inverse, shape), own_units=0)
    direct = Direct((x.index, shifted.index, found.index), interval, error, magnitude)
    return combined(context, [found], [one], own_units=units, direct=direct)


def _moments(context: OperationContext, x: NodeRef) -> tuple[NodeRef, NodeRef]:
    """Add the deviations from the mean over the last dimension, and the mean of their squares."""
    shape = context.shapes[x.index]
    n, last = shape[-1], len(shape)

    def deviate(z: Tensor) -> Tensor:
        return z - z.mean(dim=-1, keepdim=True)

    def deviate_abs(z: Tensor) -> Tensor:
        # The weight of an entry itself is 1 - 1 / n, that of the others 1 / n.
        return (1 - 2 / n) * z + z.mean(dim=-1, keepdim=True)

    node = Affine(
        inputs=(x.index,),
        shape=shape,
        linear=deviate,
        abs_linear=deviate_abs if n > 1 else torch.zeros_like,
        adjoint=lambda a: (deviate(a),),
        bias=None,
        n_summands=n + 2,
        own_units=0,
    )
    deviation = context.add(node)
    square = applied(context, Square().unrounded(), deviation)
    return deviation, summed(context, square, [last], scale=1 / n)


def _layer_norm(context: OperationContext) -> Node | NodeRef:
    x, normalised_shape, weight, bias, eps = context.args
    if context.operation.result != 0:
        raise context.refuse(" where its moments are read")
    shape = context.operation.shape
    outer = shape[: len(shape) - len(normalised_shape)]
    if len(normalised_shape) > len(shape):
        raise context.refuse(" over the batch")
    x = reshaped(context, x, (*outer, math.prod(normalised_shape)))
    found = reshaped(context, _normalised(context, x, float(eps)), shape)
    return _scaled(context, found, weight, bias)


def _group_norm(context: OperationContext) -> Node | NodeRef:
    x, weight, bias, _, channels, _, groups, eps = context.args
    if context.operation.result != 0:
        raise context.refuse(" where its moments are read")
    shape = context.operation.shape
    x = reshaped(context, x, (groups, math.prod(shape) // groups))
    found = reshaped(context, _normalised(context, x, float(eps)), shape)
    dims = (channels, *[1] * (len(shape) - 1))
    weight, bias = (part if part is None else part.view(dims) for part in (weight, bias))
    return _scaled(context, found, weight, bias)


def _scaled(
    context: OperationContext, x: NodeRef, weight: Tensor | None, bias: Tensor | None
) -> Node | NodeRef:
    if weight is None and bias is None:
        return x
    if isinstance(weight, NodeRef) or isinstance(bias, NodeRef):
        raise context.refuse(" with weights that depend on the input")
    factor = context.constant(1.0 if weight is None else weight)
    return context.scaled(x, factor, bias=None if bias is None else context.constant(bias))


OPERATIONS: dict[str, Handler] = {
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
}
