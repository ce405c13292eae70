"""Handlers of operations: how each one becomes an affine map or an activation.

A module of a plugin adds its own with `OPERATIONS = {"atan": handler, ...}`. A name is that of
torch's operation without its namespace, overload and the underscore of an operation in place, or
"library::name" for another library's; the error about an operation that has no handler says it.

A handler is a function from an OperationContext to a node:

- an Affine, for an operation that is affine in the outputs it reads: linear, its transpose, and
  linear with the absolute values of its weights, for batches of any size; `n_summands` bounds the
  rounding of the model;
- a Pointwise, for a function of one number, with an Activation that gives linear bounds:
  `context.pointwise(activation)`.

Other operations are lowered to several nodes: `context.add(node)` puts one behind the others and
returns the NodeRef that later ones read; the handler returns the last node, or its NodeRef. The
modules `steps`, `choices` and `products` add sums and moves, maxima, and products. A step that the
model does not compute has `own_units=0`, or an activation that is `unrounded()`; where the nodes
together have better interval bounds than one by one, the last one says so by `direct`.

Together they compute what the operation computes, in exact arithmetic, for each example by itself.
A handler raises context.refuse(...) for arguments it does not treat, and never approximates:
whatever it returns is part of a proof. certification.contract.check_operation compares bounds of a
handler with samples.
"""

from __future__ import annotations

from robustbench_dyn.certification.network.operations import (
    activations,
    arithmetic,
    assembly,
    attention,
    linear,
    movement,
    normalisation,
    norms,
    piecewise,
    pooling,
)
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.errors import InputError
from robustbench_dyn.plugins import Entry, Registry, from_plugins

__all__ = ["OPERATIONS", "Handler", "OperationContext"]


def _check_type(_name: str, handler: object) -> None:
    if not callable(handler):
        raise InputError(f"it is a {type(handler).__name__}, and must be a function")


_BUILT_IN = (
    activations,
    piecewise,
    pooling,
    linear,
    arithmetic,
    normalisation,
    norms,
    attention,
    movement,
    assembly,
)

OPERATIONS: Registry[Handler] = Registry(
    "operation",
    [Entry(name, handler) for module in _BUILT_IN for name, handler in module.OPERATIONS.items()],
    from_plugins=from_plugins("operations", _check_type),
)
