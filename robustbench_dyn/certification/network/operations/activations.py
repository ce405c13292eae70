"""Handlers of activations, applied entry by entry."""

from __future__ import annotations

from robustbench_dyn.certification.activations import LeakyReLU, Sigmoid, Softplus, Tanh
from robustbench_dyn.certification.network.graph import Node
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext


def _relu(context: OperationContext) -> Node:
    return context.pointwise(LeakyReLU(0.0))


def _leaky_relu(context: OperationContext) -> Node:
    slope = float(context.args[1]) if len(context.args) > 1 else 0.01
    if not 0 <= slope <= 1:
        raise context.refuse(f" with slope {slope:g}")
    return context.pointwise(LeakyReLU(slope))


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


OPERATIONS: dict[str, Handler] = {
    "leaky_relu": _leaky_relu,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "tanh": _tanh,
}
