"""Traces: what a network computes, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

# How many examples a network is traced with.
N_EXAMPLES = 2


@dataclass(frozen=True)
class NodeRef:
    """Stands in an operation's arguments for the output of this index; 0 is the input."""

    index: int


@dataclass(frozen=True)
class DerivedRef:
    """Stands for a tensor that depends on parameters alone.

    index: among the parameters in their order, followed by the results of parameter_ops.
    """

    index: int


class Operation(NamedTuple):
    """One call function(*args, **kwargs).

    name: of escapes.operation_name, without the underscore of an operation in place. result: which
    one of several results is meant; None where there is one. shape: that of one example's result,
    where the first dimension counts the examples (batched). whole_shape: that of the result, for
    the N_EXAMPLES that were traced.
    """

    name: str
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: int | None
    shape: tuple[int, ...]
    batched: bool
    whole_shape: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """The indices of the outputs that it reads."""
        leaves, _ = tree_flatten((self.args, self.kwargs))
        return tuple(leaf.index for leaf in leaves if isinstance(leaf, NodeRef))


class Trace(NamedTuple):
    """A network as operations; output k + 1 is that of operation k, the last one the logits."""

    input_shape: tuple[int, ...]
    operations: tuple[Operation, ...]
    dtype: torch.dtype
    device: torch.device


class DifferentiableTrace(NamedTuple):
    """A trace whose weights follow the parameters.

    parameter_ops: the operations that depend on parameters alone, in order.
    """

    trace: Trace
    parameters: tuple[nn.Parameter, ...]
    parameter_ops: tuple[Operation, ...]

    def materialise(self) -> Trace:
        """Return the trace with the current weights, differentiable in the parameters.

        In training this is done at each step: it costs as much as the model's own derivation of
        its weights.
        """
        derived: list[Tensor] = [*self.parameters]

        def put(leaf: Any) -> Any:
            return derived[leaf.index] if isinstance(leaf, DerivedRef) else leaf

        for operation in self.parameter_ops:
            args, kwargs = (tree_map(put, part) for part in (operation.args, operation.kwargs))
            result = operation.function(*args, **kwargs)
            derived.append(result if operation.result is None else result[operation.result])
        return with_leaves(self.trace, put)


def with_leaves(trace: Trace, change: Callable[[Any], Any]) -> Trace:
    """Return the trace with each leaf of its operations' arguments changed."""
    return trace._replace(operations=tuple(with_changed_leaves(trace.operations, change)))


def with_changed_leaves(
    operations: Iterable[Operation], change: Callable[[Any], Any]
) -> list[Operation]:
    """Return operations with each leaf of their arguments changed."""
    return [
        operation._replace(
            args=tree_map(change, operation.args), kwargs=tree_map(change, operation.kwargs)
        )
        for operation in operations
    ]
