"""Handlers of maps with weights: matrices, convolutions, batch normalisation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustbench_dyn.certification.network.graph import Affine, Node
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.certification.network.operations.products import matrix_product
from robustbench_dyn.certification.network.operations.steps import combined
from robustbench_dyn.certification.network.trace import NodeRef


def _convolution(context: OperationContext) -> Node:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = context.args
    if not isinstance(x, NodeRef) or isinstance(weight, NodeRef) or isinstance(bias, NodeRef):
        raise context.refuse(" with weights that depend on the input")
    size = context.shapes[x.index][1:]
    # One number stands for all directions, as where the padding is given as a word.
    stride, padding, dilation, output_padding = (
        list(given) * (len(size) if len(given) == 1 else 1)
        for given in (stride, padding, dilation, output_padding)
    )
    back_padding = [0] * len(size)
    if not transposed:
        # The output size of a transposed convolution is ambiguous by the remainder of the division.
        extents = zip(
            size,
            padding,
            dilation,
            weight.shape[2:],
            context.operation.shape[1:],
            stride,
            strict=True,
        )
        back_padding = [
            n + 2 * p - d * (k - 1) - 1 - (out - 1) * s for n, p, d, k, out, s in extents
        ]
    kernel = context.constant(weight)

    def convolve(z: Tensor, kernel: Tensor, *, back: bool = False) -> Tensor:
        return torch.convolution(
            z,
            kernel,
            None,
            stride,
            padding,
            dilation,
            transposed != back,
            back_padding if back else output_padding,
            groups,
        )

    magnitude = kernel.abs()
    # Of one output over the inputs, and of one input over the outputs, where a stride skips some.
    n_products = math.prod(weight.shape[1:])
    fan_out = weight.shape[0] // groups
    for length, step, gap in zip(weight.shape[2:], stride, dilation, strict=True):
        fan_out *= length if gap > 1 else -(-length // step)
    if transposed:
        n_products = weight.shape[0] // groups * math.prod(weight.shape[2:])
        fan_out = math.prod(weight.shape[1:])
    return Affine(
        inputs=(x.index,),
        shape=context.operation.shape,
        linear=lambda z: convolve(z, kernel),
        abs_linear=lambda z: convolve(z, magnitude),
        adjoint=lambda a: (convolve(a, kernel, back=True),),
        bias=None if bias is None else context.constant(bias).view(-1, *[1] * len(size)),
        n_summands=n_products + 1,
        fan_out=fan_out,
    )


def _addmm(context: OperationContext) -> Node:
    bias, x, matrix = context.args
    alpha, beta = (float(context.operation.kwargs.get(name, 1)) for name in ("alpha", "beta"))
    if isinstance(bias, NodeRef):
        raise context.refuse(" with weights that depend on the input")
    return _matmul(context, x, matrix, bias, alpha=alpha, beta=beta)


def _mm(context: OperationContext) -> Node:
    x, matrix = context.args
    return _matmul(context, x, matrix, None)


def _matmul(
    context: OperationContext,
    x: Any,
    matrix: Any,
    bias: Any,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Node:
    if not isinstance(x, NodeRef) or isinstance(matrix, NodeRef):
        raise context.refuse(" with weights that depend on the input")
    weight = alpha * context.constant(matrix).contiguous()
    magnitude = weight.abs()
    return Affine(
        inputs=(x.index,),
        shape=context.operation.shape,
        linear=lambda z: z @ weight,
        abs_linear=lambda z: z @ magnitude,
        adjoint=lambda a: (a @ weight.T,),
        bias=None if bias is None else beta * context.constant_per_example(bias),
        # Scaling rounds, too.
        n_summands=len(weight) + 1 + (alpha != 1 or beta != 1) * 2,
        fan_out=weight.shape[1],
    )


def _bmm(context: OperationContext) -> Node | NodeRef:
    a, b = context.args
    if isinstance(a, NodeRef) and isinstance(b, NodeRef):
        return matrix_product(context, a, b)
    x, constant = (a, b) if isinstance(a, NodeRef) else (b, a)
    weight = context.constant_per_example(constant)
    size = weight.abs()

    def multiply(z: Tensor, weight: Tensor) -> Tensor:
        return z @ weight if x is a else weight @ z

    def adjoint(rows: Tensor) -> tuple[Tensor, ...]:
        transposed = weight.transpose(-1, -2)
        return (rows @ transposed if x is a else transposed @ rows,)

    return Affine(
        inputs=(x.index,),
        shape=context.operation.shape,
        linear=lambda z: multiply(z, weight),
        abs_linear=lambda z: multiply(z, size),
        adjoint=adjoint,
        bias=None,
        n_summands=weight.shape[-2 if x is a else -1] + 1,
        fan_out=weight.shape[-1 if x is a else -2],
    )


def _mv(context: OperationContext) -> Node:
    x, vector = context.args
    if not isinstance(x, NodeRef) or isinstance(vector, NodeRef):
        raise context.refuse(" with weights that depend on the input")
    weight = context.constant(vector)
    size = weight.abs()
    return Affine(
        inputs=(x.index,),
        shape=context.operation.shape,
        linear=lambda z: z @ weight,
        abs_linear=lambda z: z @ size,
        adjoint=lambda a: (a[..., None] * weight,),
        bias=None,
        n_summands=len(weight) + 1,
    )


def _baddbmm(context: OperationContext) -> NodeRef:
    """beta c + alpha a b, of a constant c."""
    constant, a, b = context.args
    alpha, beta = (float(context.operation.kwargs.get(name, 1)) for name in ("alpha", "beta"))
    if not (isinstance(a, NodeRef) and isinstance(b, NodeRef)) or isinstance(constant, NodeRef):
        raise context.refuse(" of one constant matrix, or to a value that depends on the input")
    bias = beta * context.constant_per_example(constant)
    if not bias.isfinite().all():
        raise context.refuse(" to infinite numbers; mask by scaled_dot_product_attention")
    product, factor = matrix_product(context, a, b), context.constant(alpha)
    return combined(context, [product], [factor], bias=bias if beta else None, own_units=None)


def _batch_norm(context: OperationContext) -> Node:
    x, weight, bias, mean, variance, *rest = context.args
    if context.operation.result != 0 or not isinstance(x, NodeRef) or True in rest[:-2]:
        raise context.refuse(" in train mode")
    scale = (variance.double() + rest[-1]).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean.double() * scale if bias is None else bias - mean.double() * scale
    dimensions = [1] * (len(context.operation.shape) - 1)
    return context.scaled(
        x,
        context.constant(scale).view(-1, *dimensions),
        bias=context.constant(shift).view(-1, *dimensions),
        n_summands=8,
        # It computes (x - mean) scale + bias.
        cancelled=context.constant(2 * mean.double() * scale).view(-1, *dimensions),
    )


OPERATIONS: dict[str, Handler] = {
    "_native_batch_norm_legit_no_training": _batch_norm,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "bmm": _bmm,
    "convolution": _convolution,
    "mm": _mm,
    "mv": _mv,
    "native_batch_norm": _batch_norm,
}
