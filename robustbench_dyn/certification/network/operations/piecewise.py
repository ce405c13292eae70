"""Handlers of functions that are linear between kinks, and of the larger of two values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_dyn.certification.activations import LeakyReLU
from robustbench_dyn.certification.network.graph import Node
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.certification.network.operations.choices import (
    Kink,
    maximum,
    minimum,
    piecewise_linear,
)
from robustbench_dyn.certification.network.operations.steps import expanded
from robustbench_dyn.certification.network.trace import NodeRef


def _relu(context: OperationContext) -> Node:
    return context.pointwise(LeakyReLU(0.0))


def _leaky_relu(context: OperationContext) -> Node | NodeRef:
    slope = float(context.args[1]) if len(context.args) > 1 else 0.01
    if 0 <= slope <= 1:
        return context.pointwise(LeakyReLU(slope))
    return _with_slope_below_0(context, context.constant(slope))


def _prelu(context: OperationContext) -> NodeRef:
    _, weight = context.args
    if isinstance(weight, NodeRef):
        raise context.refuse(" with a weight that depends on the input")
    return _with_slope_below_0(context, context.constant_per_example(weight))


def _with_slope_below_0(context: OperationContext, slope: Tensor) -> NodeRef:
    """max(z, 0) + slope min(z, 0), for any slopes."""

    def function(z: Tensor) -> Tensor:
        return torch.where(z > 0, z, z * slope)

    zero = torch.zeros_like(slope)
    return piecewise_linear(
        context,
        context.args[0],
        function,
        slope=slope,
        offset=zero,
        kinks=[Kink(zero, 1 - slope)],
        own_units=2,
    )


def absolute(context: OperationContext, x: NodeRef) -> NodeRef:
    """Add the absolute value of a value."""
    zero, one = context.constant(0.0), context.constant(1.0)
    kinks = [Kink(zero, 2 * one)]
    return piecewise_linear(context, x, torch.abs, slope=-one, offset=zero, kinks=kinks)


def _abs(context: OperationContext) -> NodeRef:
    return absolute(context, context.args[0])


def _hardtanh(context: OperationContext) -> NodeRef:
    given = tuple(context.args[1:])
    least, most = given + (-1.0, 1.0)[len(given) :]
    return _clamped(context, context.args[0], least, most)


def _clamp(context: OperationContext) -> NodeRef:
    x, kwargs = context.args[0], context.operation.kwargs
    given = dict(zip(("min", "max"), context.args[1:], strict=False)) | dict(kwargs)
    return _clamped(context, x, given.get("min"), given.get("max"))


def _clamp_min(context: OperationContext) -> NodeRef:
    x, least = context.args
    return _clamped(context, x, least, None)


def _clamp_max(context: OperationContext) -> NodeRef:
    x, most = context.args
    return _clamped(context, x, None, most)


def _threshold(context: OperationContext) -> NodeRef:
    x, threshold, value = context.args
    if threshold != value:
        raise context.refuse(" with a jump")
    return _clamped(context, x, threshold, None)


def _clamped(context: OperationContext, x: Any, least: Any, most: Any) -> NodeRef:
    """Add min(max(x, least), most); None where there is no such end."""
    if not isinstance(x, NodeRef) or isinstance(least, NodeRef) or isinstance(most, NodeRef):
        raise context.refuse(" with ends that depend on the input")
    one, zero = context.constant(1.0), context.constant(0.0)
    low = None if least is None else context.constant_per_example(least)
    high = None if most is None else context.constant_per_example(most)
    x = expanded(context, x, context.operation.shape)
    if low is not None and high is not None and bool((low > high).any()):
        raise context.refuse(" with ends in the wrong order")
    if low is None:
        kinks = [] if high is None else [Kink(high, -one)]
        slope, offset = one, zero
    else:
        kinks = [Kink(low, one)] + ([] if high is None else [Kink(high, -one)])
        slope, offset = zero, low

    def function(z: Tensor) -> Tensor:
        z = z if low is None else z.maximum(low.to(z))
        return z if high is None else z.minimum(high.to(z))

    return piecewise_linear(context, x, function, slope=slope, offset=offset, kinks=kinks)


def _hardsigmoid(context: OperationContext) -> NodeRef:
    sixth, three = context.constant(1 / 6), context.constant(3.0)
    return piecewise_linear(
        context,
        context.args[0],
        F.hardsigmoid,
        slope=context.constant(0.0),
        offset=context.constant(0.0),
        kinks=[Kink(-three, sixth), Kink(three, -sixth)],
        own_units=4,
    )


def _softshrink(context: OperationContext) -> NodeRef:
    width = float((*context.args[1:], 0.5)[0])
    one, end = context.constant(1.0), context.constant(width)
    return piecewise_linear(
        context,
        context.args[0],
        lambda z: F.softshrink(z, width),
        slope=one,
        offset=end,
        kinks=[Kink(-end, -one), Kink(end, one)],
        own_units=2,
    )


def _maximum(context: OperationContext) -> NodeRef:
    return _chosen(context, larger=True)


def _minimum(context: OperationContext) -> NodeRef:
    return _chosen(context, larger=False)


def _chosen(context: OperationContext, *, larger: bool) -> NodeRef:
    a, b = context.args[:2]
    if not isinstance(a, NodeRef):
        a, b = b, a
    if not isinstance(b, NodeRef):
        ends = (b, None) if larger else (None, b)
        return _clamped(context, a, *ends)
    a, b = (expanded(context, value, context.operation.shape) for value in (a, b))
    return (maximum if larger else minimum)(context, a, b)


OPERATIONS: dict[str, Handler] = {
    "_prelu_kernel": _prelu,
    "abs": _abs,
    "clamp": _clamp,
    "clamp_max": _clamp_max,
    "clamp_min": _clamp_min,
    "fmax": _maximum,
    "fmin": _minimum,
    "hardsigmoid": _hardsigmoid,
    "hardtanh": _hardtanh,
    "leaky_relu": _leaky_relu,
    "maximum": _maximum,
    "minimum": _minimum,
    "relu": _relu,
    "softshrink": _softshrink,
    "threshold": _threshold,
}
