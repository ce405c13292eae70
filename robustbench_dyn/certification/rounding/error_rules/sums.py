"""Error rules of sums, products and quotients of values, means, norms and maxima."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustbench_dyn.certification.rounding.error_rules.base import (
    Call,
    ErrorBounds,
    Tracked,
    affine,
    broadcast,
    entry_range,
    max_entry,
    max_size,
    rule,
    scaled,
)


@rule("add", "sub", "rsub")
def _sum(call: Call) -> ErrorBounds | None:
    alpha = abs(float(call.kwargs.get("alpha", call.arg(2, 1))))
    units = 1 if alpha == 1 else 3
    factors = (alpha, 1.0) if call.name == "rsub" else (1.0, alpha)
    return _sum_of(call, *factors, units=units)


def _sum_of(
    call: Call, first: float, second: float, *, units: int, at: tuple[int, int] = (0, 1)
) -> ErrorBounds:
    zero = torch.zeros(call.n, dtype=torch.float64, device=call.value.device)
    total, size = ErrorBounds(zero, zero), zero
    for index, factor in zip(at, (first, second), strict=True):
        one = call.operand(call.args[index])
        if one is not None:
            part = scaled(broadcast(call, one), factor)
            total = ErrorBounds(total.drift + part.drift, total.error + part.error)
            size = size + factor * max_size(one, call.n) * (part.drift.numel() > 0)
    found = call.rounded(total.drift, total.error, units)
    if units > 1:
        # A scaled operand rounds before the sum, and may be larger than that.
        found = ErrorBounds(found.drift, found.error + units * call.unit * size)
    return found


@rule("mul")
def _product(call: Call) -> ErrorBounds | None:
    first, second = call.operand(call.args[0]), call.operand(call.args[1])
    if first is not None and second is not None:
        return _product_of_two(call, first, second)
    one = first if first is not None else second
    assert one is not None
    constant = call.args[1] if first is not None else call.args[0]
    # Errors of entries are scaled by factors of their own, all others by the largest one.
    found = scaled(broadcast(call, one.without_entries()), _largest_constant(constant))
    found = one.error_bounds.scaled_by_entry(constant, call.value, found)
    return call.with_rounding(found, 2)


@rule("div")
def _quotient(call: Call) -> ErrorBounds | None:
    first, second = call.operand(call.args[0]), call.operand(call.args[1])
    if call.kwargs.get("rounding_mode") is not None:
        return None
    if second is None:
        assert first is not None
        smallest = _smallest_constant(call.args[1])
        part = scaled(broadcast(call, first), 1 / smallest if smallest else math.inf)
        return call.rounded(part.drift, part.error, 2)
    low, high = entry_range(second, call.n)
    least = torch.where((low > 0) | (high < 0), torch.minimum(low.abs(), high.abs()), 0.0)
    inverse = torch.where(least > 0, 1 / least, math.inf)
    below = broadcast(call, second)
    if first is None:
        above = ErrorBounds(torch.zeros_like(below.drift), torch.zeros_like(below.error))
        top = torch.full_like(below.drift, _largest_constant(call.args[0]))
    else:
        above, top = broadcast(call, first), max_entry(first, call.n)
    drift = above.drift * inverse + top * below.drift * inverse.square()
    error = above.error * inverse + top * below.error * inverse.square()
    return call.rounded(drift, error, 2)


def _product_of_two(call: Call, first: Tracked, second: Tracked) -> ErrorBounds:
    a, b = broadcast(call, first), broadcast(call, second)
    most_a, most_b = max_entry(first, call.n), max_entry(second, call.n)
    drift = most_a * b.drift + most_b * a.drift
    return call.rounded(drift, most_a * b.error + most_b * a.error, 2)


def _largest_constant(factor: Any) -> float:
    return float(factor.abs().max()) if isinstance(factor, Tensor) else abs(float(factor))


def _smallest_constant(divisor: Any) -> float:
    return float(divisor.abs().min()) if isinstance(divisor, Tensor) else abs(float(divisor))


@rule("sum", "mean")
def _reduced(call: Call) -> ErrorBounds | None:
    one = call.operand(call.args[0])
    dims = call.arg(1)
    if one is None or not isinstance(dims, (list, tuple)) or not dims:
        return None
    if any(dim % one.value.dim() == 0 for dim in dims):
        return None
    n_summands = one.value.numel() / call.value.numel()
    factor = math.sqrt(n_summands) if call.name == "sum" else 1 / math.sqrt(n_summands)
    return affine(call, one, norm=factor, abs_norm=factor, n_summands=n_summands + 1)


@rule("avg_pool2d")
def _average_pool(call: Call) -> ErrorBounds | None:
    one = call.operand(call.args[0])
    kernel, stride = list(call.args[1]), list(call.arg(2, []) or call.args[1])
    padding, ceil, counts = call.arg(3, [0]), call.arg(4, False), call.arg(5, True)
    if one is None or ceil or (any(padding) and not counts):
        return None
    area = math.prod(kernel)
    divisor = abs(call.arg(6) or area)
    # Row sums times column sums: a pixel lies in so many windows.
    windows = math.prod(math.ceil(k / s) for k, s in zip(kernel, stride, strict=True))
    factor = math.sqrt(area * windows) / divisor
    return affine(call, one, norm=factor, abs_norm=factor, n_summands=area + 1)


@rule("_adaptive_avg_pool2d")
def _adaptive_pool(call: Call) -> ErrorBounds | None:
    one = call.operand(call.args[0])
    if one is None:
        return None
    pairs = list(zip(one.value.shape[-2:], call.value.shape[-2:], strict=True))
    if any(size % to for size, to in pairs):
        return None
    n_summands = math.prod(size // to for size, to in pairs)
    factor = 1 / math.sqrt(n_summands)
    return affine(call, one, norm=factor, abs_norm=factor, n_summands=n_summands + 1)


@rule("linalg_vector_norm")
def _norm(call: Call) -> ErrorBounds | None:
    one = call.operand(call.args[0])
    dims = call.arg(2)
    if one is None or float(call.arg(1, 2)) != 2.0 or not dims:
        return None
    if any(dim % one.value.dim() == 0 for dim in dims):
        return None
    n_summands = one.value.numel() / call.value.numel()
    return call.rounded(one.error_bounds.drift, one.error_bounds.error, n_summands + 4)


@rule("amax", "amin", "max_pool2d_with_indices", "sort", "topk")
def _reduced_without_rounding(call: Call) -> ErrorBounds | None:
    one = call.operand(call.args[0])
    if one is None or call.result != 0:
        return None
    if call.name == "max_pool2d_with_indices":
        kernel, stride = list(call.args[1]), list(call.arg(2, []) or call.args[1])
        windows = math.prod(math.ceil(k / s) for k, s in zip(kernel, stride, strict=True))
        if any(dilation != 1 for dilation in call.arg(4, [1])):
            windows = math.prod(kernel)
        return scaled(one.error_bounds, math.sqrt(windows))
    dims = call.arg(2, -1) if call.name == "topk" else call.arg(1, -1)
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    if not dims or any(dim % one.value.dim() == 0 for dim in dims):
        return None
    return one.error_bounds


@rule("maximum", "minimum", "max", "min")
def _extremum(call: Call) -> ErrorBounds | None:
    if not isinstance(call.arg(1), Tensor):
        return _reduced_without_rounding(call)
    return _sum_of(call, 1.0, 1.0, units=0)


@rule("where")
def _chosen(call: Call) -> ErrorBounds | None:
    return None if call.operand(call.args[0]) else _sum_of(call, 1.0, 1.0, units=0, at=(1, 2))
