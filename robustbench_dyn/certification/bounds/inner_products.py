"""Inner products of many rows with a few vectors, and what rounding may change of them."""

from __future__ import annotations

import torch
from torch import Tensor

# So many products are summed at a time, and these sums in float64; so are all products of rows that
# are shorter than the other number.
_BLOCK, _SHORT = 128, 64


def rounding_share(rows: Tensor) -> float:
    """Return what `inner_products` of rows errs by, as a share of the sum of absolute values.

    n products are summed with an error of at most n units roundoff of this sum, in any order
    (Jeannerod & Rump, SIAM J. Matrix Anal. Appl. 34, 2013). Four units more allow for vectors that
    are rounded to the dtype, and for the sum of blocks.
    """
    n = rows.shape[-1]
    dtype = torch.float64 if n <= _SHORT else rows.dtype
    return (min(n, _BLOCK) + 4) * torch.finfo(dtype).eps / 2 + n * 2.0**-53


def inner_products(rows: Tensor, vectors: Tensor) -> Tensor:
    """Return <rows[g, i], vectors[g, j]>, (groups, vectors, rows), float64.

    rows: (groups, rows, n); vectors: (groups or 1, vectors, n), which may be of a wider dtype. Rows
    that are part of a graph are searched with: their products are summed at once, in their dtype,
    and err by more than `rounding_share`.
    """
    vectors = vectors.expand(len(rows), -1, -1)
    if rows.requires_grad:
        return torch.bmm(vectors.to(rows), rows.transpose(1, 2)).double()
    if rows.shape[2] <= _SHORT:
        return torch.bmm(vectors.double(), rows.double().transpose(1, 2))
    return _blockwise(rows, vectors.to(rows))


def _blockwise(rows: Tensor, vectors: Tensor) -> Tensor:
    """Return inner products, summed over blocks in the dtype of both, and then in float64."""
    total = rows.new_zeros(len(rows), vectors.shape[1], rows.shape[1], dtype=torch.float64)
    for part, block in zip(
        torch.split(vectors, _BLOCK, dim=2), torch.split(rows, _BLOCK, dim=2), strict=True
    ):
        total += torch.bmm(part, block.transpose(1, 2))
    return total


@torch.no_grad()
def abs_products(sizes: Tensor, vectors: Tensor) -> Tensor:
    """Return at least <sizes[g, i], vectors[g, j]>, (groups, vectors, rows), float64.

    sizes, vectors: at least 0, as in `inner_products`; vectors may be of float64. A product that
    overflows or is not known counts as infinite.
    """
    kind = torch.finfo(sizes.dtype)
    vectors = (vectors + kind.tiny).to(sizes)
    n = sizes.shape[2]
    # Nothing cancels, so that a sum of all products errs by n units of the result.
    total = torch.bmm(vectors.expand(len(sizes), -1, -1), sizes.transpose(1, 2)).double()
    total = total * (1 + (n + 4) * kind.eps) + 2 * n * kind.tiny
    return total.nan_to_num(nan=torch.inf, posinf=torch.inf)


def box_minimum(rows: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return at most the minimum of <rows[g, i], z> for lower[g] <= z <= upper[g], (groups, rows).

    rows: (groups, rows, n); lower, upper: (groups, n). The result is of float64.
    """
    lower, upper = lower.double(), upper.double()
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    # Both sums are rounded, and so is the radius.
    share = rounding_share(rows)
    radius = radius + 2 * share * (middle.abs() + radius)
    return (inner_products(rows, middle[:, None]) - inner_products(rows.abs(), radius[:, None]))[
        :, 0
    ]
