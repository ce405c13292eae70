"""Handlers of maxima over windows and dimensions, and of sorted groups.

A maximum over several values is a tree of maxima of two. Over a window it is taken along one axis
after the other, of shifted views: three by three values need four. Groups are sorted by a network
of comparators, each of which puts the larger of two values first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from robustbench_dyn.certification.network.operations.base import Handler, OperationContext
from robustbench_dyn.certification.network.operations.choices import maximum, minimum, ordered
from robustbench_dyn.certification.network.operations.steps import joined, picked, reshaped
from robustbench_dyn.certification.network.trace import NodeRef

# Groups of more values are not sorted.
_LARGEST_GROUP = 32


class _Window(NamedTuple):
    """Windows along one axis: how many values, from where on, at which distances."""

    size: int
    stride: int
    padding: int
    dilation: int


def largest(context: OperationContext, values: Sequence[NodeRef]) -> NodeRef:
    """Add the largest one of several values, by a tree of maxima of two."""
    left = list(values)
    while len(left) > 1:
        pairs = zip(left[::2], left[1::2], strict=False)
        odd = left[-1:] if len(left) % 2 else []
        left = [maximum(context, a, b) for a, b in pairs] + odd
    return left[0]


def _windowed(context: OperationContext, x: NodeRef, dim: int, window: _Window, n: int) -> NodeRef:
    """Add the maxima over n windows along a dimension.

    What lies outside is replaced by a value of the same window: that changes no maximum.
    """
    size = context.shapes[x.index][dim - 1]
    starts = torch.arange(n) * window.stride - window.padding
    offsets = torch.arange(window.size) * window.dilation
    places = starts[:, None] + offsets
    inside = (places >= 0) & (places < size)
    if not inside.any(dim=1).all():
        raise context.refuse(" with a window that holds no value")
    first = places[torch.arange(n), inside.to(torch.int8).argmax(dim=1)]
    places = torch.where(inside, places, first[:, None])
    return largest(context, [picked(context, x, dim, column) for column in places.T])


def _max_pool(context: OperationContext) -> NodeRef:
    x, kernel, *rest = context.args
    if context.operation.result != 0:
        raise context.refuse(" where its indices are read")
    n_axes = {"max_pool2d_with_indices": 2, "max_pool3d_with_indices": 3}[context.operation.name]
    given = [list(kernel), *map(_listed, rest[:3])]
    defaults = [given[0], given[0], [0], [1]]
    settings = [
        found if found else default
        for found, default in zip(given + [[]] * (4 - len(given)), defaults, strict=True)
    ]
    spread = [setting * (n_axes if len(setting) == 1 else 1) for setting in settings]
    if len(context.operation.shape) <= n_axes:
        raise context.refuse(" over the batch")
    for axis in reversed(range(n_axes)):
        dim = len(context.operation.shape) - n_axes + axis + 1
        window = _Window(*(setting[axis] for setting in spread))
        if window != (1, 1, 0, 1):
            x = _windowed(context, x, dim, window, context.operation.shape[dim - 1])
    return x


def _listed(setting: int | Sequence[int]) -> list[int]:
    return [setting] if isinstance(setting, int) else list(setting)


def _adaptive_max_pool(context: OperationContext) -> NodeRef:
    """Maxima over windows from floor(i n / m) to ceil((i + 1) n / m), for m of n values."""
    x, sizes = context.args
    if context.operation.result != 0:
        raise context.refuse(" where its indices are read")
    n_axes = len(sizes)
    for axis in reversed(range(n_axes)):
        dim = len(context.operation.shape) - n_axes + axis + 1
        n, m = context.shapes[x.index][dim - 1], context.operation.shape[dim - 1]
        starts = [i * n // m for i in range(m)]
        ends = [-(-(i + 1) * n // m) for i in range(m)]
        width = max(end - start for start, end in zip(starts, ends, strict=True))
        columns = [
            torch.tensor([min(s + k, e - 1) for s, e in zip(starts, ends, strict=True)])
            for k in range(width)
        ]
        x = largest(context, [picked(context, x, dim, column) for column in columns])
    return x


def _over_dimensions(context: OperationContext) -> NodeRef:
    """max and min along a dimension, amax and amin along several."""
    x, name = context.args[0], context.operation.name
    if len(context.args) > 1 and isinstance(context.args[1], NodeRef):
        raise context.refuse(" of two values")
    if context.operation.result not in (None, 0):
        raise context.refuse(" where its indices are read")
    given = (*context.args[1:], [])[0]
    rank = len(context.shapes[x.index]) + 1
    dims = [dim % rank for dim in ([given] if isinstance(given, int) else given)]
    if not dims or 0 in dims:
        raise context.refuse(" over the batch")
    choose = maximum if name in ("max", "amax") else minimum
    for dim in dims:
        while (n := context.shapes[x.index][dim - 1]) > 1:
            half = n // 2
            first, second = torch.arange(half), torch.arange(half, 2 * half)
            chosen = choose(
                context, picked(context, x, dim, first), picked(context, x, dim, second)
            )
            if n % 2:
                rest = picked(context, x, dim, torch.tensor([n - 1]))
                head = picked(context, chosen, dim, torch.tensor([0]))
                head = choose(context, head, rest)
                tail = picked(context, chosen, dim, torch.arange(1, half)) if half > 1 else None
                chosen = head if tail is None else joined(context, [head, tail], dim)
            x = chosen
    return reshaped(context, x, context.operation.shape)


def _sorted(context: OperationContext) -> NodeRef:
    """sort and topk along a dimension: their values."""
    x, name = context.args[0], context.operation.name
    if context.operation.result != 0:
        raise context.refuse(" where its indices are read")
    kwargs = dict(context.operation.kwargs)
    rest = [argument for argument in context.args[1:] if not isinstance(argument, bool)]
    flags = [argument for argument in context.args[1:] if isinstance(argument, bool)]
    kwargs.pop("stable", None)
    if name == "topk":
        k = int(rest.pop(0))
        decreasing = kwargs.pop("largest", (*flags, True)[0])
    else:
        # sort(dim, descending), and sort(stable=, dim=, descending=)
        k, decreasing = 0, kwargs.pop("descending", (*flags[-1:], False)[0])
    dim = kwargs.pop("dim", (*rest, -1)[0]) % (len(context.shapes[x.index]) + 1)
    size = context.shapes[x.index][dim - 1]
    if dim == 0:
        raise context.refuse(" over the batch")
    if size > _LARGEST_GROUP:
        raise context.refuse(f" of {size} values, which are more than {_LARGEST_GROUP}")
    values = [picked(context, x, dim, torch.tensor([i])) for i in range(size)]
    for i, j in comparators(size):
        values[i], values[j] = ordered(context, values[i], values[j])
    values = values if decreasing else values[::-1]
    return joined(context, values[: k or size], dim)


def comparators(n: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of Batcher's odd-even merge sort of n values, in their order.

    Batcher, Sorting networks and their applications, AFIPS 1968.
    """
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        yield i + j, i + j + k
            k //= 2
        p *= 2


OPERATIONS: dict[str, Handler] = {
    "adaptive_max_pool2d": _adaptive_max_pool,
    "adaptive_max_pool3d": _adaptive_max_pool,
    "amax": _over_dimensions,
    "amin": _over_dimensions,
    "max": _over_dimensions,
    "max_pool2d_with_indices": _max_pool,
    "max_pool3d_with_indices": _max_pool,
    "min": _over_dimensions,
    "sort": _sorted,
    "topk": _sorted,
}
