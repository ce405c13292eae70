"""Handlers of smooth activations, applied entry by entry."""

from __future__ import annotations

import math

import torch

from robustbench_dyn.certification.activations import Activation, Sigmoid, Softplus, Tanh
from robustbench_dyn.certification.convex_activations import (
    Exp,
    Log,
    Reciprocal,
    Rsqrt,
    Sqrt,
    Square,
)
from robustbench_dyn.certification.curved_activations import (
    ELU,
    GELU,
    Hardswish,
    SiLU,
    TanhGELU,
)
from robustbench_dyn.certification.network.graph import Node
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.certification.network.operations.products import product
from robustbench_dyn.certification.network.operations.steps import applied, combined, picked
from robustbench_dyn.certification.network.trace import NodeRef


def _tanh(context: OperationContext) -> Node:
    return context.pointwise(Tanh())


def _sigmoid(context: OperationContext) -> Node:
    return context.pointwise(Sigmoid())


def _softplus(context: OperationContext) -> Node:
    given = list(context.args[1:])
    beta, threshold = given + [1.0, 20.0][len(given) :]
    if not beta > 0:
        raise context.refuse(f" with beta {beta:g}")
    return context.pointwise(Softplus(float(beta), float(threshold)))


def _log_sigmoid(context: OperationContext) -> NodeRef:
    """-softplus(-z)."""
    (z,) = context.args
    if context.operation.result != 0:
        raise context.refuse(" where its buffer is read")
    minus = context.constant(-1.0)
    function = Softplus(1.0, math.inf)
    # The model computes -max(-z, 0) - log1p(exp(-|z|)).
    return combined(context, [applied(context, function, combined(context, [z], [minus]))], [minus])


def _gelu(context: OperationContext) -> Node:
    approximate = context.operation.kwargs.get("approximate", (*context.args[1:], "none")[0])
    return context.pointwise(TanhGELU() if approximate == "tanh" else GELU())


def _silu(context: OperationContext) -> Node:
    return context.pointwise(SiLU())


def _hardswish(context: OperationContext) -> Node:
    return context.pointwise(Hardswish())


def _elu(context: OperationContext) -> Node:
    given = [float(argument) for argument in context.args[1:]]
    if context.operation.name == "celu":
        (alpha,) = given or [1.0]
        given = [alpha, 1.0, 1 / alpha if alpha else 0.0]
    alpha, scale, input_scale = given + [1.0] * (3 - len(given))
    if min(alpha, scale, input_scale) <= 0:
        raise context.refuse(f" with alpha {alpha:g} and scale {scale:g}")
    return context.pointwise(ELU(alpha, scale, input_scale))


def _exp(context: OperationContext) -> Node:
    return context.pointwise(Exp())


def _reciprocal(context: OperationContext) -> Node:
    return context.pointwise(Reciprocal())


def _rsqrt(context: OperationContext) -> Node:
    return context.pointwise(Rsqrt())


def _sqrt(context: OperationContext) -> Node:
    return context.pointwise(Sqrt())


def _log(context: OperationContext) -> Node:
    return context.pointwise(Log())


def _glu(context: OperationContext) -> NodeRef:
    """a sigmoid(b), of the halves a and b."""
    x, dim = (*context.args, -1)[:2]
    dim = dim % (len(context.operation.shape) + 1)
    if dim == 0:
        raise context.refuse(" over the batch")
    half = context.operation.shape[dim - 1]
    a, b = (picked(context, x, dim, torch.arange(k, k + half)) for k in (0, half))
    # sigmoid errs as an activation of its own does.
    return product(context, a, applied(context, Sigmoid(), b))


def _pow(context: OperationContext) -> Node | NodeRef:
    z, power = context.args
    powers: dict[float, type[Activation]] = {2: Square, 0.5: Sqrt, -1: Reciprocal, -0.5: Rsqrt}
    if isinstance(z, NodeRef) and isinstance(power, (int, float)):
        if power == 1:
            return z
        if power in powers:
            return context.pointwise(powers[power]())
    raise context.refuse(f" to the power {power}")


OPERATIONS: dict[str, Handler] = {
    "celu": _elu,
    "elu": _elu,
    "exp": _exp,
    "gelu": _gelu,
    "glu": _glu,
    "hardswish": _hardswish,
    "log": _log,
    "log_sigmoid_forward": _log_sigmoid,
    "pow": _pow,
    "reciprocal": _reciprocal,
    "rsqrt": _rsqrt,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "sqrt": _sqrt,
    "softplus": _softplus,
    "tanh": _tanh,
}
