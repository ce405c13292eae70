"""Handlers of sums, products, quotients and means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_dyn.certification.convex_activations import Reciprocal
from robustbench_dyn.certification.network.graph import Affine, Node
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.certification.network.operations.products import product, quotient
from robustbench_dyn.certification.network.operations.steps import applied, expanded
from robustbench_dyn.certification.network.trace import NodeRef


def _mul(context: OperationContext) -> Node | NodeRef:
    x, factor = context.args
    if not isinstance(x, NodeRef):
        x, factor = factor, x
    x = expanded(context, x, context.operation.shape)
    if isinstance(factor, NodeRef):
        return product(context, x, expanded(context, factor, context.operation.shape))
    return context.scaled(x, context.constant_per_example(factor))


def _div(context: OperationContext) -> Node | NodeRef:
    x, divisor = context.args
    if context.operation.kwargs.get("rounding_mode") is not None:
        raise context.refuse(" rounded")
    if isinstance(divisor, NodeRef):
        divisor = expanded(context, divisor, context.operation.shape)
        if isinstance(x, NodeRef):
            return quotient(context, expanded(context, x, context.operation.shape), divisor)
        inverse = applied(context, Reciprocal().unrounded(), divisor)
        return context.scaled(inverse, context.constant_per_example(x))
    factor = context.constant_per_example(divisor).double().reciprocal()
    x = expanded(context, x, context.operation.shape)
    return context.scaled(x, factor.to(context.dtype))


def _neg(context: OperationContext) -> Node:
    return context.scaled(context.args[0], context.constant(-1.0), n_summands=0)


def _sum(context: OperationContext) -> Node:
    name, (first, second) = context.operation.name, context.args[:2]
    alpha = float(context.operation.kwargs.get("alpha", (*context.args[2:], 1)[0]))
    signs = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[name]
    operands = list(zip((first, second), signs, strict=True))
    refs = [
        (expanded(context, operand, context.operation.shape), sign)
        for operand, sign in operands
        if isinstance(operand, NodeRef)
    ]
    bias = None
    for operand, sign in operands:
        if not isinstance(operand, NodeRef):
            bias = sign * context.constant_per_example(operand)
    weights = [sign for _, sign in refs]

    def total(values: tuple[Tensor, ...], weights: list[float]) -> Tensor:
        scaled = [
            value if weight == 1 else weight * value
            for value, weight in zip(values, weights, strict=True)
        ]
        return scaled[0] if len(scaled) == 1 else scaled[0] + scaled[1]

    return Affine(
        inputs=tuple(ref.index for ref, _ in refs),
        shape=context.operation.shape,
        linear=lambda *zs: total(zs, weights),
        abs_linear=lambda *zs: total(zs, [abs(weight) for weight in weights]),
        adjoint=lambda a: tuple(a if weight == 1 else weight * a for weight in weights),
        bias=bias,
        n_summands=len(weights) + 1,
    )


def _mean(context: OperationContext) -> Node:
    name, (index,) = context.operation.name, context.operation.inputs
    before, after = math.prod(context.shapes[index]), math.prod(context.operation.shape)
    n_summands = before if name == "sum" else 2 * math.ceil(before / max(after, 1)) + 2
    if name in ("avg_pool2d", "avg_pool3d"):
        n_summands = math.prod(context.args[1]) + 1
    return context.nonnegative_map(n_summands)


def _fold(context: OperationContext) -> Node:
    """Patches that are added where they overlap."""
    return context.nonnegative_map(math.prod(context.args[2]) + 1)


def _index_add(context: OperationContext) -> Node:
    """Numbers that are added to those at some places along a dimension."""
    _, dim, places, *_ = context.args
    alpha = float(context.operation.kwargs.get("alpha", 1))
    if dim % (len(context.operation.shape) + 1) == 0:
        raise context.refuse(" over the batch")
    if isinstance(places, NodeRef) or alpha != 1:
        raise context.refuse(" at places that depend on the input, or times a factor")
    return context.nonnegative_map(int(torch.bincount(places.flatten()).max()) + 1)


OPERATIONS: dict[str, Handler] = {
    "_adaptive_avg_pool2d": _mean,
    "add": _sum,
    "avg_pool2d": _mean,
    "avg_pool3d": _mean,
    "col2im": _fold,
    "div": _div,
    "index_add": _index_add,
    "mean": _mean,
    "mul": _mul,
    "neg": _neg,
    "rsub": _sum,
    "sub": _sum,
    "sum": _mean,
}
