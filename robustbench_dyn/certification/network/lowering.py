"""From a trace to affine maps and activations; an operation without a handler is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_map

from robustbench_dyn.certification.network.batch_layout import rewritten
from robustbench_dyn.certification.network.graph import Network, Node
from robustbench_dyn.certification.network.layout import STANDARD, Placed
from robustbench_dyn.certification.network.operations import (
    OPERATIONS,
    Handler,
    OperationContext,
)
from robustbench_dyn.certification.network.operations.refusals import REASONS
from robustbench_dyn.certification.network.placement import BY_PLACES, rewritten_by_places
from robustbench_dyn.certification.network.scalars import with_vectors
from robustbench_dyn.certification.network.trace import N_EXAMPLES, NodeRef, Operation, Trace
from robustbench_dyn.errors import CertificateError


class Handlers(dict[str, Handler | None]):
    """The handlers of some operations, each looked up once; None where there is none."""

    def __missing__(self, name: str) -> Handler | None:
        self[name] = OPERATIONS.get(name) if name in OPERATIONS else None
        return self[name]


def to_network(trace: Trace, dtype: torch.dtype, handlers: Handlers | None = None) -> Network:
    """Return the traced network in `dtype`.

    handlers: those of an earlier call, for speed. Raises CertificateError, naming the operation,
    where one has no handler, and InputError where its plugin is broken.
    """
    handlers = Handlers() if handlers is None else handlers
    shapes, nodes = [trace.input_shape], list[Node]()
    new_indices = {0: 0}
    placed = {0: Placed((N_EXAMPLES, *trace.input_shape), STANDARD)}
    for k in _needed(trace):
        traced = trace.operations[k - 1]
        rewrite = rewritten_by_places if traced.name in BY_PLACES else rewritten
        in_front = rewrite(traced, [placed[i] for i in traced.inputs], N_EXAMPLES)
        operation = _renumbered(in_front.operation if in_front else traced, new_indices)
        context = OperationContext(operation, shapes, nodes, dtype, trace.device, trace.dtype)
        handler = handlers[operation.name]
        if handler is None:
            raise context.refuse(REASONS.get(operation.name, ""))
        if in_front is None:
            raise context.refuse(" over the batch")
        placed[k] = Placed(traced.whole_shape, in_front.layout)
        lowered = handler(context)
        reference = lowered if isinstance(lowered, NodeRef) else context.add(lowered)
        new_indices[k] = reference.index
    if placed[len(trace.operations)].layout != STANDARD:
        raise CertificateError("the network's logits are not one row for each example")
    vectors = with_vectors(nodes, trace.input_shape)
    return Network(trace.input_shape, vectors, dtype, trace.dtype)


def _needed(trace: Trace) -> list[int]:
    """Return the indices of the outputs that the logits depend on, in order, the input left out."""
    needed = {len(trace.operations)}
    for k in range(len(trace.operations), 0, -1):
        if k in needed:
            needed.update(trace.operations[k - 1].inputs)
    return sorted(needed - {0})


def _renumbered(operation: Operation, new_indices: dict[int, int]) -> Operation:
    def renumber(leaf: Any) -> Any:
        return NodeRef(new_indices[leaf.index]) if isinstance(leaf, NodeRef) else leaf

    change = partial(tree_map, renumber)
    return operation._replace(args=change(operation.args), kwargs=change(operation.kwargs))
