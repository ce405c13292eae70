"""Handlers of operations that only move values."""

from __future__ import annotations

import torch

from robustbench_dyn.certification.network.graph import Affine, Node
from robustbench_dyn.certification.network.operations.base import Handler, OperationContext

_MOVES = [
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "alias_copy",
    "cat",
    "clone",
    "constant_pad_nd",
    "contiguous",
    "detach",
    "expand",
    "flatten",
    "flip",
    "narrow",
    "permute",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reshape",
    "roll",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
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


def _move(context: OperationContext) -> Node:
    return context.nonnegative_map(0)


OPERATIONS: dict[str, Handler] = {"_to_copy": _cast, **dict.fromkeys(_MOVES, _move)}
