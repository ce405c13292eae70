"""Handlers of smooth activations, applied entry by entry."""

from __future__ import annotations

from robustbench_dyn.certification.activations import Sigmoid, Softplus, Tanh
from robustbench_dyn.certification.network.graph import Node
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext


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
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "tanh": _tanh,
}
