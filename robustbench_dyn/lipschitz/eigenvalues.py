"""A rigorous upper bound of the largest eigenvalue of a symmetric matrix, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Covers the rounding of the few operations on scalars.
_ROUNDING = 1.0 + 1e-12


def largest_eigenvalue(matrix: Tensor) -> float:
    """Return an upper bound of the largest eigenvalue of the symmetric part of a matrix, (n, n).

    With an approximate decomposition S = Q diag(l) Q^T + R and |Q^T Q - I| <= g, any unit vector
    has x^T S x = sum_i l_i (q_i^T x)^2 + x^T R x: at most max l (1 + g) + |R| where max l >= 0, and
    max l (1 - g) + |R| elsewhere. |R| and g are bounded by Frobenius norms, with the rounding of
    the products that they come from. NaN where an entry is not finite.
    """
    matrix = matrix.detach().double().cpu()
    if not bool(matrix.isfinite().all()):
        return math.nan
    symmetric = (matrix + matrix.T) / 2
    values, vectors = torch.linalg.eigh(symmetric)
    unit = (len(matrix) + 4) * torch.finfo(torch.float64).eps
    scaled = vectors * values
    residual = symmetric - scaled @ vectors.T
    rounding = unit * (scaled.abs() @ vectors.abs().T + symmetric.abs())
    gram = vectors.T @ vectors - torch.eye(len(matrix), dtype=torch.float64)
    skewed = float(gram.norm() + unit * (vectors.abs().T @ vectors.abs()).norm()) * _ROUNDING
    largest = float(values.max())
    grown = largest * (1 + skewed if largest >= 0 else 1 - skewed)
    rest = float(residual.norm() + rounding.norm()) * _ROUNDING
    return grown + rest + abs(grown) * (_ROUNDING - 1)


def gram(matrix: Tensor) -> tuple[Tensor, float]:
    """Return A^T A in float64, and how far it may be from the exact one, in the Frobenius norm."""
    matrix = matrix.detach().double()
    unit = (len(matrix) + 2) * torch.finfo(torch.float64).eps
    return matrix.T @ matrix, unit * float((matrix.abs().T @ matrix.abs()).norm()) * _ROUNDING


def root_of_gram(matrix: Tensor, rounding: float) -> float:
    """Return an upper bound of the norm of A from A^T A, (n, n), that is off by at most rounding.

    NaN where an entry is not finite.
    """
    squared = largest_eigenvalue(matrix) + rounding
    # Written so that NaN stays NaN: max(0, nan) would be 0.
    return 0.0 if squared <= 0 else math.sqrt(squared) * _ROUNDING
