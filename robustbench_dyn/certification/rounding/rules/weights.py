"""Maps with weights: matrices, convolutions, batch norm."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_dyn.certification.rounding.rules.base import (
    NORM_SLACK,
    Call,
    Followed,
    Ranges,
    affine,
    most,
    rule,
    size_of,
)
from robustbench_dyn.lipschitz.norms import conv_norm, matrix_norm

# Columns of weights whose norms differ by more than this are told apart.
_UNEVEN = 4.0


@rule("mm", "addmm")
def _matrix(call: Call) -> Ranges | None:
    bias, x, weight = call.args if call.name == "addmm" else (None, *call.args)
    one = call.of(x)
    if one is None or call.of(weight) is not None or call.of(bias) is not None:
        return None
    if any(call.kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        return None
    magnitude = weight.abs()
    return _weighted(
        call, one, norm=matrix_norm(weight), absolute=matrix_norm(magnitude),
        terms=weight.shape[0] + 1, spread=lambda z: z @ magnitude,
        rows=_norms(weight, 0), bias=bias,
        columns=_norms(weight, 1),
        norm_by_columns=lambda columns: matrix_norm(weight / columns[:, None]),
    )  # fmt: skip


@rule("bmm")
def _matrices(call: Call) -> Ranges | None:
    first, second = (call.of(argument) for argument in call.args[:2])
    terms, n = call.args[0].shape[-1], call.n
    if first is not None and second is not None:
        # In the Frobenius norm, which is no smaller than the spectral one.
        a, b = first.ranges, second.ranges
        size_a, size_b = most(first, n), most(second, n)
        drift = size_a * b.drift + size_b * a.drift
        error = size_a * b.error + size_b * a.error + (terms + 1) * call.unit * size_a * size_b
        return call.rounded(drift, error)
    one, other = (first, call.args[1]) if first is not None else (second, call.args[0])
    if one is None or len(other) % n:
        return None
    absolute = float(other.double().flatten(1).norm(dim=1).max())
    return affine(call, one, norm=absolute, absolute=absolute, terms=terms + 1)


@rule("convolution")
def _convolution(call: Call) -> Ranges | None:
    x, weight, bias, stride, _padding, dilation, transposed, _output_padding, groups = call.args
    one = call.of(x)
    if one is None or call.of(weight) is not None or call.of(bias) is not None:
        return None
    step = (int(stride[0]), int(stride[-1])) if all(d == 1 for d in dilation) else (1, 1)

    def norm_of(kernel: Tensor) -> float:
        # At frequency 0 the symbol of a convolution without negative weights has its largest norm.
        most = max(matrix_norm(part.abs().flatten(2).sum(dim=2)) for part in kernel.chunk(groups))
        if weight.dim() != 4:
            return most
        return min(most, max(conv_norm(part, stride=step) for part in kernel.chunk(groups)))

    absolute = norm_of(weight.abs())
    parts = weight.chunk(groups)
    inputs = len(weight) // groups if transposed else weight.shape[1]
    magnitude, others = weight.abs(), tuple(range(2, weight.dim()))
    first = _norms(weight, (1, *others))
    second = torch.cat([_norms(p, (0, *others)) for p in parts])
    rows, columns = (second, first) if transposed else (first, second)
    shape = (-1, *[1] * len(others))

    def norm_by_columns(columns: Tensor) -> float:
        of_inputs = columns.view(-1, 1) if transposed else columns.view(groups, -1)
        if not transposed:
            of_inputs = of_inputs.repeat_interleave(len(weight) // groups, dim=0)
        return norm_of(weight / of_inputs.view(*of_inputs.shape, *[1] * len(others)))

    return _weighted(
        call, one, norm=norm_of(weight), absolute=absolute,
        terms=inputs * math.prod(weight.shape[2:]) + 1,
        spread=lambda z: torch.convolution(z, magnitude, None, *call.args[3:]),
        rows=rows.view(shape), bias=None if bias is None else bias.view(shape),
        columns=columns.view(shape), norm_by_columns=norm_by_columns,
    )  # fmt: skip


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def _batch_norm(call: Call) -> Ranges | None:
    x, weight, bias, mean, variance, *rest = call.args
    one = call.of(x)
    if one is None or call.output != 0 or mean is None or True in rest[:-2]:
        return None
    scale = (variance.double() + float(rest[-1])).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    positions = call.value[0, 0].numel() * call.value.shape[0] / call.n
    moved = 2 * _size(mean.double() * scale) + (0.0 if bias is None else _size(bias))
    factor = float(scale.abs().max()) * NORM_SLACK
    return affine(
        call, one, norm=factor, absolute=factor, terms=8, bias=moved * math.sqrt(positions)
    )


def _weighted(
    call: Call, one: Followed, *, norm: float, absolute: float, terms: int,
    spread: Callable[[Tensor], Tensor], rows: Tensor, bias: Tensor | None, columns: Tensor,
    norm_by_columns: Callable[[Tensor], float],
) -> Ranges:  # fmt: skip
    """Bound W z + b entry by entry: spread is |W|, rows and columns have the norms of W's.

    norm_by_columns: the norm of W with its columns divided by these numbers.
    """
    found = affine(call, one, norm=norm, absolute=absolute, terms=terms, rounds=False)
    settled, fresh, reach = one.ranges.settled(), one.ranges.fresh, one.ranges.reach
    sizes = spread(one.value.abs()) + rows * _by_entry(
        call, call.value, settled.drift + 2 * settled.error
    )
    columns = columns.where(columns > 0, 1.0)
    uneven = float(columns.max()) > _UNEVEN * float(columns.min())
    if fresh is not None and reach is not None and uneven:
        # |W f| <= |W C^-1| |C f|, C the norms of W's columns: scales of f that W takes back.
        carried = norm * one.ranges.error
        carried = carried + norm_by_columns(columns.flatten()) * size_of(fresh * columns, call.n)
        found = found._replace(error=found.error - (norm * settled.error - carried).clamp_min(0))
        moved = reach + 2 * fresh + _by_entry(call, one.value, 2 * one.ranges.error)
        sizes = sizes.minimum(spread(one.value.abs() + moved))
    sizes = sizes if bias is None else sizes + bias.abs()
    # The sizes are summed in the same dtype, and round too.
    fresh = sizes * ((terms + 1) * call.unit * (1 + (2 * terms + 8) * call.unit))
    reach = rows * _by_entry(call, call.value, settled.drift) * (1 + 16 * call.unit)
    return found._replace(fresh=fresh, reach=reach)


def _norms(weight: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return norms over some dimensions, rounded up, in weight's dtype."""
    kind = torch.finfo(weight.dtype)
    norms = torch.linalg.vector_norm(weight.detach(), dim=dim, dtype=torch.float64)
    return (norms * (1 + 2 * kind.eps)).to(weight.dtype) + kind.tiny


def _by_entry(call: Call, like: Tensor, of_examples: Tensor) -> Tensor:
    """Return a number of each example, in a shape that fits the value."""
    repeated = of_examples.to(like.dtype).repeat_interleave(len(like) // call.n)
    return repeated.view(-1, *[1] * (like.dim() - 1))


def _size(tensor: Tensor) -> float:
    return float(tensor.detach().double().norm())
