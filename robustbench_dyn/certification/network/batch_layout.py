"""Layouts of tensors that hold the batch in another dimension than the first, or within one.

Matrices are applied to (batch tokens, features), and heads of attention have (batch heads, ...) or
(3, batch, heads, ...). In the order of memory, such a tensor is (before, batch, after) for each
example's own numbers before and after, whatever its dimensions are. An operation on it is rewritten
as one on tensors with the batch in a first dimension of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_dyn.certification.network.layout import (
    STANDARD,
    Layout,
    Placed,
    Rewritten,
    for_one_example,
    with_arguments,
)
from robustbench_dyn.certification.network.trace import NodeRef, Operation


def rewritten(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    """Return an operation with the batch in front; None where it cannot be rewritten.

    inputs: the tensors that it reads, in order. batch: how many examples were traced.
    """
    standard = all(tensor.layout == STANDARD for tensor in inputs)
    rewrite = _REWRITES.get(operation.name)
    if standard and (operation.name not in _MOVING or rewrite is None):
        return Rewritten(operation, STANDARD) if operation.batched else None
    if rewrite is None or not inputs:
        return None
    layouts = {tensor.layout for tensor in inputs}
    return rewrite(operation, inputs, batch) if len(layouts) == 1 else None


def _permute(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    x, dims = operation.args
    layout = inputs[0].layout
    rank = len(dims)
    dims = [dim % rank for dim in dims]
    new = layout._replace(dim=dims.index(layout.dim))
    places = [place for dim in dims if (place := _kept(layout, dim)) is not None]
    changed = operation._replace(function=torch.ops.aten.permute.default)
    return with_arguments(changed, new, [x, [0, *places]], batch, "permute")


def _kept(layout: Layout, dim: int) -> int | None:
    """Return where a dimension is with the batch in front, also what is left of the batch's."""
    return dim + 1 if dim == layout.dim and not layout.own else layout.moved(dim)


def _transpose(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    rank = len(operation.whole_shape)
    first, second = (*operation.args[1:], 0, 1)[:2] if operation.name != "t" else (0, 1)
    dims = list(range(rank))
    dims[first], dims[second] = dims[second], dims[first]
    return _permute(operation._replace(args=(operation.args[0], dims)), inputs, batch)


def _view(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    """A view keeps the order in memory: what is before the batch stays there."""
    layout = inputs[0].layout
    before = math.prod(inputs[0].shape[: layout.dim]) * layout.before
    done = 1
    for dim, size in enumerate(operation.whole_shape):
        if done * size >= batch * before:
            ahead = before // done
            if not ahead or before % done or size % (ahead * batch):
                return None
            new = Layout(dim, ahead, size // (ahead * batch))
            return with_arguments(operation, new, operation.args, batch)
        done *= size
    return None


def _along(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    """Operations along one dimension, which is their second argument."""
    x, dim, *rest = (*operation.args, 0)[: max(2, len(operation.args))]
    if not isinstance(dim, int):
        return None
    layout = inputs[0].layout
    rank = len(inputs[0].shape) + (operation.name in ("unsqueeze", "stack"))
    dim %= rank
    new = layout
    if operation.name in ("unsqueeze", "stack"):
        place = dim + 1 if not layout.own or dim <= layout.dim else dim
        new = layout._replace(dim=layout.dim + (dim <= layout.dim))
    else:
        found = layout.moved(dim)
        if found is None:
            return None
        place = found
        if operation.name in ("select", "unbind", "squeeze") and dim < layout.dim:
            new = layout._replace(dim=layout.dim - 1)
    return with_arguments(operation, new, [x, place, *rest], batch)


def _reduced(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    """Reductions over several dimensions, which are their second argument."""
    x, dims, *rest = (*operation.args, None)[: max(2, len(operation.args))]
    layout, rank = inputs[0].layout, len(inputs[0].shape)
    if not dims or any(dim % rank == layout.dim for dim in dims):
        return None
    kept = bool((*rest, False)[0])
    before = 0 if kept else sum(dim % rank < layout.dim for dim in dims)
    places = [place for dim in dims if (place := layout.moved(dim % rank)) is not None]
    new = layout._replace(dim=layout.dim - before)
    return with_arguments(operation, new, [x, places, *rest], batch)


def _split(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    x, sizes, *dims = operation.args
    layout = inputs[0].layout
    place = layout.moved((*dims, 0)[0] % len(inputs[0].shape))
    return None if place is None else with_arguments(operation, layout, [x, sizes, place], batch)


def _entrywise(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    """Operations entry by entry, of values with one layout, and of constants that broadcast."""
    layout = inputs[0].layout
    args = list(operation.args)
    for k, argument in enumerate(args):
        if isinstance(argument, Tensor):
            changed = for_one_example(argument, layout, len(operation.whole_shape), batch)
            if changed is None:
                return None
            args[k] = changed
    return with_arguments(operation, layout, args, batch)


def _expand(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    layout = inputs[0].layout
    source, target = inputs[0].shape, operation.whole_shape
    if len(source) != len(target) or source[layout.dim] != target[layout.dim]:
        return None
    return with_arguments(operation, layout, operation.args, batch)


def _matrix(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    """mm, mv and addmm of rows, some for each example; mm also of columns, one for each."""
    layout = inputs[0].layout
    x, matrix = operation.args[-2:]
    if operation.name == "mm" and layout == Layout(1) and isinstance(matrix, NodeRef):
        return with_arguments(operation, layout, [matrix, x.T], batch)
    if layout.dim != 0 or not isinstance(x, NodeRef):
        return None
    return with_arguments(operation, layout, operation.args, batch)


def _layer_norm(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    _, normalised, *_ = operation.args
    layout = inputs[0].layout
    if layout.dim >= len(inputs[0].shape) - len(normalised) or operation.result != 0:
        return None
    return with_arguments(operation, layout, operation.args, batch)


def _batched_matrices(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    layout = inputs[0].layout
    args = list(operation.args)
    for k, other in enumerate(args):
        if isinstance(other, NodeRef):
            # Rows of the first, or columns of the second, may be those of several examples.
            if layout.dim != 0 and layout.dim != 1 + k:
                return None
        elif layout.dim == 0:
            changed = for_one_example(other, layout, 3, batch)
            if changed is None:
                return None
            args[k] = changed
    if layout.dim != 0 and len(inputs) > 1:
        return None
    return with_arguments(operation, layout, args, batch)


def _added_matrices(operation: Operation, inputs: list[Placed], batch: int) -> Rewritten | None:
    first, *others = operation.args
    found = _batched_matrices(operation._replace(args=others), inputs, batch)
    if found is None or not isinstance(first, Tensor):
        return None
    constant = for_one_example(first, inputs[0].layout, 3, batch)
    if constant is None:
        return None
    args = [constant, *found.operation.args]
    return found._replace(operation=found.operation._replace(args=args))


# Also of tensors with the batch in front, these may put it elsewhere.
_VIEWS = ("_reshape_alias", "_unsafe_view", "reshape", "view", "view_copy")
_SPLITS = ("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
_MOVING = frozenset({*_VIEWS, "permute", "stack", "t", "transpose", "unsqueeze"})
_Rewrite = Callable[[Operation, list[Placed], int], Rewritten | None]
_REWRITES: dict[str, _Rewrite] = {
    "permute": _permute,
    **dict.fromkeys(("transpose", "t"), _transpose),
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(
        (
            "_log_softmax",
            "_safe_softmax",
            "_softmax",
            "cat",
            "select",
            "slice",
            "squeeze",
            "stack",
            "unbind",
            "unsqueeze",
        ),
        _along,
    ),
    **dict.fromkeys(("amax", "amin", "mean", "sum"), _reduced),
    **dict.fromkeys(_SPLITS, _split),
    **dict.fromkeys(
        (
            *("add", "alias", "clone", "contiguous", "detach", "div", "elu", "gelu", "hardswish"),
            *("hardtanh", "leaky_relu", "mul", "neg", "relu", "rsub", "sigmoid", "silu"),
            *("softplus", "sub", "tanh", "_to_copy"),
        ),
        _entrywise,
    ),
    "expand": _expand,
    **dict.fromkeys(("addmm", "mm", "mv"), _matrix),
    "baddbmm": _added_matrices,
    "bmm": _batched_matrices,
    "native_layer_norm": _layer_norm,
}
