"""Handlers of operations that only move values."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_dyn.certification.network.graph import Affine, Node
from robustbench_dyn.certification.network.operations.base import (
    Adjoint,
    Handler,
    OperationContext,
)
from robustbench_dyn.certification.network.trace import NodeRef

# Those that may read one number several times.
_REPEATING = [
    "expand",
    "im2col",
    "index",
    "index_select",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "repeat",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "stack",
    "unfold",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
]
# Those that take means of some numbers, with weights that are at least 0.
_INTERPOLATIONS = ["upsample_bilinear2d", "upsample_linear1d"]
# Those that return what they are given.
_COPIES = ["alias", "alias_copy", "clone", "contiguous", "detach"]
_MOVES = [
    "_reshape_alias",
    "_unsafe_view",
    "cat",
    "constant_pad_nd",
    "channel_shuffle",
    "diagonal",
    "flatten",
    "flip",
    "narrow",
    "permute",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reshape",
    "roll",
    "rot90",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsqueeze",
    "view",
    "view_copy",
]


def _cast(context: OperationContext) -> Node:
    kwargs, (x, *_) = context.operation.kwargs, context.args
    dtype = kwargs.get("dtype")
    if kwargs.keys() - {"dtype", "memory_format"}:
        raise context.refuse(" to another device or layout")
    if dtype not in (None, torch.float32, torch.float64):
        raise context.refuse(f" to {dtype}, which rounds")
    return Affine(
        inputs=(x.index,),
        shape=context.operation.shape,
        linear=lambda z: z,
        abs_linear=lambda z: z,
        adjoint=lambda a: (a,),
        bias=None,
        n_summands=1,
    )


def _same(context: OperationContext) -> NodeRef:
    reference: NodeRef = context.args[0]
    return reference


def _move(context: OperationContext) -> Node:
    return context.nonnegative_map(0, adjoint=_moved_back(context))


def _moved_back(context: OperationContext) -> Adjoint:
    """Return the transpose of a move, by where it puts each number."""
    # What comes from no input, as padding does.
    constant = context.offset(torch.float64)
    shapes = [context.shapes[index] for index in context.operation.inputs]
    sizes = [math.prod(shape) for shape in shapes]
    # Each number is its own place, from 1 on.
    places = torch.arange(1.0, sum(sizes) + 1, dtype=torch.float64, device=context.device)
    parts = zip(torch.split(places, sizes), shapes, strict=True)
    moved = context.apply(*(part.reshape(1, *shape) for part, shape in parts))[0]
    read = torch.where(moved > constant, moved, 0).flatten().long() - 1
    there = (read >= 0).nonzero().flatten()
    if len(shapes) == 1 and len(read) == sizes[0] and torch.equal(read, there):
        return lambda a: (a.reshape(len(a), *shapes[0]),)
    # Where each number went; those that went nowhere read the zero behind all others.
    went = torch.full((sum(sizes),), len(read), device=context.device)
    went[read[there]] = there
    lost = len(there) < sum(sizes)
    to_each = torch.split(went, sizes)

    def adjoint(coefficients: Tensor) -> tuple[Tensor, ...]:
        flat = coefficients.reshape(len(coefficients), len(read))
        if lost:
            flat = F.pad(flat, (0, 1))
        parts = zip(to_each, shapes, strict=True)
        return tuple(flat.index_select(1, went).reshape(len(flat), *shape) for went, shape in parts)

    return adjoint


def _repeat(context: OperationContext) -> Node:
    indexed = "index" in context.operation.name
    if indexed and context.operation.inputs != (context.args[0].index,):
        raise context.refuse(" at places that depend on the input")
    # Coefficients of a number that is read several times are added, but the model adds nothing.
    return replace(context.nonnegative_map(0), own_units=0)


def _interpolate(context: OperationContext) -> Node:
    # Up to four products each, with weights that the model computes from the places in its grid.
    largest = max(*context.operation.shape, *context.shapes[context.args[0].index])
    # An input reaches at most three times as many outputs a dimension as its weights add up to.
    return context.nonnegative_map(16 + 4 * largest, mean_weight=1 / 9)


OPERATIONS: dict[str, Handler] = {
    "_to_copy": _cast,
    **dict.fromkeys(_COPIES, _same),
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_REPEATING, _repeat),
    **dict.fromkeys(_INTERPOLATIONS, _interpolate),
}
