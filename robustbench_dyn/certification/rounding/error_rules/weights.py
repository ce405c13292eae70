"""Error rules of maps with weights: matrices, convolutions, batch normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_dyn.certification.rounding.error_rules.base import (
    NORM_SLACK,
    Call,
    ErrorBounds,
    Tracked,
    affine,
    max_size,
    rule,
    size_of,
)
from robustbench_dyn.lipschitz.norms import conv_norm, matrix_norm

# Columns of weights are bounded each by its own norm where these differ by more than this.
_UNEVEN = 4.0


@rule("mm", "addmm")
def _matrix(call: Call) -> ErrorBounds | None:
    bias, x, weight = call.args if call.name == "addmm" else (None, *call.args)
    one = call.operand(x)
    if one is None or call.operand(weight) is not None or call.operand(bias) is not None:
        return None
    if any(call.kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        return None
    magnitude = weight.abs()
    return _weighted(
        call,
        one,
        norm=matrix_norm(weight),
        abs_norm=matrix_norm(magnitude),
        n_summands=weight.shape[0] + 1,
        abs_linear=lambda z: z @ magnitude,
        rows=_norms(weight, 0),
        bias=bias,
        columns=_norms(weight, 1),
        norm_by_columns=lambda columns: matrix_norm(weight / columns[:, None]),
    )


@rule("bmm")
def _matrices(call: Call) -> ErrorBounds | None:
    first, second = (call.operand(argument) for argument in call.args[:2])
    n_summands, n = call.args[0].shape[-1], call.n
    if first is not None and second is not None:
        # In the Frobenius norm, which is no smaller than the spectral one.
        a, b = first.error_bounds, second.error_bounds
        size_a, size_b = max_size(first, n), max_size(second, n)
        drift = size_a * b.drift + size_b * a.drift
        error = size_a * b.error + size_b * a.error + (n_summands + 1) * call.unit * size_a * size_b
        return call.rounded(drift, error)
    one, other = (first, call.args[1]) if first is not None else (second, call.args[0])
    if one is None or len(other) % n:
        return None
    abs_norm = float(other.double().flatten(1).norm(dim=1).max())
    return affine(call, one, norm=abs_norm, abs_norm=abs_norm, n_summands=n_summands + 1)


@rule("convolution")
def _convolution(call: Call) -> ErrorBounds | None:
    x, weight, bias, stride, _padding, dilation, transposed, _output_padding, groups = call.args
    one = call.operand(x)
    if one is None or call.operand(weight) is not None or call.operand(bias) is not None:
        return None
    step = (int(stride[0]), int(stride[-1])) if all(d == 1 for d in dilation) else (1, 1)

    def norm_of(kernel: Tensor) -> float:
        # At frequency 0 the symbol of a convolution without negative weights has its largest norm.
        most = max(matrix_norm(part.abs().flatten(2).sum(dim=2)) for part in kernel.chunk(groups))
        if weight.dim() != 4:
            return most
        return min(most, max(conv_norm(part, stride=step) for part in kernel.chunk(groups)))

    abs_norm = norm_of(weight.abs())
    parts = weight.chunk(groups)
    inputs = len(weight) // groups if transposed else weight.shape[1]
    magnitude, others = weight.abs(), tuple(range(2, weight.dim()))
    first = _norms(weight, (1, *others))
    second = torch.cat([_norms(p, (0, *others)) for p in parts])
    rows, columns = (second, first) if transposed else (first, second)
    shape = (-1, *[1] * len(others))

    def norm_by_columns(columns: Tensor) -> float:
        divisors = columns.view(-1, 1) if transposed else columns.view(groups, -1)
        if not transposed:
            divisors = divisors.repeat_interleave(len(weight) // groups, dim=0)
        return norm_of(weight / divisors.view(*divisors.shape, *[1] * len(others)))

    return _weighted(
        call,
        one,
        norm=norm_of(weight),
        abs_norm=abs_norm,
        n_summands=inputs * math.prod(weight.shape[2:]) + 1,
        abs_linear=lambda z: torch.convolution(z, magnitude, None, *call.args[3:]),
        rows=rows.view(shape),
        bias=None if bias is None else bias.view(shape),
        columns=columns.view(shape),
        norm_by_columns=norm_by_columns,
    )


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def _batch_norm(call: Call) -> ErrorBounds | None:
    x, weight, bias, mean, variance, *rest = call.args
    one = call.operand(x)
    if one is None or call.result != 0 or mean is None or True in rest[:-2]:
        return None
    scale = (variance.double() + float(rest[-1])).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    positions = call.value[0, 0].numel() * call.value.shape[0] / call.n
    moved = 2 * _size(mean.double() * scale) + (0.0 if bias is None else _size(bias))
    factor = float(scale.abs().max()) * NORM_SLACK
    return affine(
        call, one, norm=factor, abs_norm=factor, n_summands=8, bias=moved * math.sqrt(positions)
    )


def _weighted(
    call: Call,
    one: Tracked,
    *,
    norm: float,
    abs_norm: float,
    n_summands: int,
    abs_linear: Callable[[Tensor], Tensor],
    rows: Tensor,
    bias: Tensor | None,
    columns: Tensor,
    norm_by_columns: Callable[[Tensor], float],
) -> ErrorBounds:
    """Bound W z + b entry by entry.

    abs_linear: z -> |W| z. rows, columns: the norms of W's rows and columns. norm_by_columns: the
    norm of W with its columns divided by its argument.
    """
    found = affine(call, one, norm=norm, abs_norm=abs_norm, n_summands=n_summands, rounds=False)
    bounds, total = one.error_bounds, one.error_bounds.aggregated()
    around = call.by_entry(total.drift + 2 * total.error)
    sizes = abs_linear(one.value.abs()) + rows * around
    columns = columns.where(columns > 0, 1.0)
    uneven = float(columns.max()) > _UNEVEN * float(columns.min())
    if bounds.entry_error is not None and bounds.entry_drift is not None and uneven:
        # |W e| <= |W C^-1| |C e|, C the norms of W's columns: scales of e that W takes back.
        scaled_norm, scales = norm_by_columns(columns.flatten()), columns.double()
        passed = scaled_norm * size_of(bounds.entry_error * scales, call.n)
        passed = norm * bounds.error + passed
        times = one.value.numel() / bounds.entry_drift.numel()
        moved = scaled_norm * math.sqrt(times) * size_of(bounds.entry_drift * scales, call.n)
        found = found._replace(
            drift=found.drift.minimum(moved),
            error=found.error - (norm * total.error - passed).clamp_min(0),
        )
        moved = bounds.entry_drift + 2 * bounds.entry_error
        moved = moved + call.by_entry(2 * bounds.error, one.value)
        sizes = sizes.minimum(abs_linear(one.value.abs() + moved))
    sizes = sizes if bias is None else sizes + bias.abs()
    # The sizes are summed in the same dtype, and round too.
    entry_error = sizes * ((n_summands + 1) * call.unit * (1 + (2 * n_summands + 8) * call.unit))
    entry_drift = rows * call.by_entry(total.drift) * (1 + 16 * call.unit)
    return found._replace(entry_error=entry_error, entry_drift=entry_drift)


def _norms(weight: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return norms over some dimensions, rounded up, in weight's dtype."""
    kind = torch.finfo(weight.dtype)
    norms = torch.linalg.vector_norm(weight.detach(), dim=dim, dtype=torch.float64)
    return (norms * (1 + 2 * kind.eps)).to(weight.dtype) + kind.tiny


def _size(tensor: Tensor) -> float:
    return float(tensor.detach().double().norm())
