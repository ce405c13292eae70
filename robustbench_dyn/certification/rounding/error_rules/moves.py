"""Error rules of operations that only move numbers.

The numbers of one example have to stay together, in the first dimension.
"""

from __future__ import annotations

import math
from functools import reduce

import torch

from robustbench_dyn.certification.rounding.error_rules.base import (
    Call,
    ErrorBounds,
    broadcast,
    combined,
    max_size,
    rule,
    scaled,
)


@rule(
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "flatten",
    "lift_fresh",
    "reshape",
    "view",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "squeeze",
    "alias_copy",
    "view_copy",
    moves=True,
)
def _moved(call: Call) -> ErrorBounds | None:
    return call.tracked[0].error_bounds


@rule("permute", moves=True)
def _permuted(call: Call) -> ErrorBounds | None:
    return call.tracked[0].error_bounds if call.args[1][0] == 0 else None


@rule("transpose", moves=True)
def _transposed(call: Call) -> ErrorBounds | None:
    dims = {dim % max(call.value.dim(), 1) for dim in call.args[1:3]}
    return None if 0 in dims else call.tracked[0].error_bounds


@rule(
    "unsqueeze",
    "flip",
    "unbind",
    "split",
    "split_with_sizes",
    "chunk",
    "narrow",
    "select",
    "slice",
    "index_select",
    moves=True,
)
def _along_a_dimension(call: Call) -> ErrorBounds | None:
    one = call.operand(call.args[0])
    if one is None:
        return None
    dims = call.arg(2 if call.name in _SPLITTING else 1, 0)
    rank = one.value.dim() + (call.name == "unsqueeze")
    dims = [dim % rank for dim in (dims if isinstance(dims, (list, tuple)) else [dims])]
    whole = call.name == "slice" and len(call.value) == len(one.value)
    if 0 in dims and not whole:
        return None
    if call.name != "index_select":
        return one.error_bounds
    most = int(torch.bincount(call.args[2].flatten()).max()) if call.args[2].numel() else 0
    return scaled(one.error_bounds, math.sqrt(most))


_SPLITTING = frozenset({"split", "split_with_sizes", "chunk"})


@rule("index", moves=True)
def _indexed(call: Call) -> ErrorBounds | None:
    one, indices = call.operand(call.args[0]), list(call.args[1])
    if one is None or not indices or indices[0] is not None or len(call.value) != len(one.value):
        return None
    # Each entry is read at most as often as all of its coordinates are.
    most = 1
    for dim, index in enumerate(indices):
        if index is not None:
            if index.dtype is torch.bool:
                return None
            places = index.flatten().remainder(one.value.shape[dim])
            most *= int(torch.bincount(places).max())
    return scaled(one.error_bounds, math.sqrt(min(most, call.value.numel())))


@rule("roll", moves=True)
def _rolled(call: Call) -> ErrorBounds | None:
    dims = [dim % call.value.dim() for dim in call.arg(2, [])]
    return call.tracked[0].error_bounds if dims and 0 not in dims else None


@rule("constant_pad_nd", moves=True)
def _padded(call: Call) -> ErrorBounds | None:
    return call.tracked[0].error_bounds if len(call.args[1]) < 2 * call.value.dim() else None


@rule("cat", "stack", moves=True)
def _joined(call: Call) -> ErrorBounds | None:
    if call.arg(1, 0) % call.value.dim() == 0:
        return None
    return reduce(
        combined, (one.error_bounds for one in map(call.operand, call.args[0]) if one is not None)
    )


@rule("expand", "repeat", moves=True)
def _repeated(call: Call) -> ErrorBounds | None:
    one = call.tracked[0]
    if len(call.value) != len(one.value):
        return None
    return scaled(one.error_bounds, math.sqrt(call.value.numel() / max(1, one.value.numel())))


@rule("copy", moves=True)
@rule("_to_copy")
def _cast(call: Call) -> ErrorBounds | None:
    source = call.args[1] if call.name == "copy" else call.args[0]
    one = call.operand(source)
    if one is None:
        zero = torch.zeros(call.n, dtype=torch.float64, device=call.value.device)
        return ErrorBounds(zero, zero)
    drift, error = broadcast(call, one)[:2]
    if not one.value.is_floating_point():
        return None
    if torch.finfo(one.value.dtype).eps < torch.finfo(call.value.dtype).eps:
        fits = max_size(one, call.n) < torch.finfo(call.value.dtype).max
        return call.rounded(drift, error.where(fits, math.inf))
    return ErrorBounds(drift, error)


@rule("fill", "zero")
def _filled(call: Call) -> ErrorBounds | None:
    if call.operand(call.arg(1)) is not None:
        return None
    zero = torch.zeros(call.n, dtype=torch.float64, device=call.value.device)
    return ErrorBounds(zero, zero)
