"""Rigorous upper bounds on operator norms (L2 to L2), in float64 and never by power iteration."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Covers the rounding of the float64 sums below: they add far fewer than 1e5 terms of one sign.
_ROUNDING = 1.0 + 1e-10


def gram_iteration(weight: Tensor, *, n_iterations: int = 8) -> float:
    """Return an upper bound on the spectral norm of a matrix.

    |W|_2 <= |(W^T W)^(2^(k-1))|_F^(1/2^k), rescaled at each squaring (Delattre et al., arXiv
    2305.16173, Theorem 1). The bound falls towards the norm from above; eight iterations lie
    within 1 % of it for any matrix of rank below 100. weight: (rows, columns).
    """
    gram = weight.detach().double()
    gram = gram @ gram.T if gram.shape[0] < gram.shape[1] else gram.T @ gram
    log_scale, power = 0.0, 1.0
    for _ in range(n_iterations):
        scale = float(gram.norm())
        if scale == 0.0:
            return 0.0
        gram = gram / scale
        log_scale += power * torch.tensor(scale, dtype=torch.float64).log().item()
        gram, power = gram @ gram, power / 2
    log_norm = log_scale + power * float(gram.norm().log())
    return float(torch.tensor(log_norm / 2, dtype=torch.float64).exp()) * _ROUNDING


def conv_norm(kernel: Tensor) -> float:
    """Return an upper bound on the norm of a zero-padded convolution of any size and stride.

    The smallest of three provable bounds: sqrt(norm_1 norm_inf); the row sums of the kernel's
    autocorrelation (arXiv 2208.03160); sqrt(kh kw) times the norm of the reshaped kernel.
    kernel: (out_channels, in_channels, kh, kw).
    """
    kernel = kernel.detach().double()
    magnitude = kernel.abs()
    column_sum = float(magnitude.sum(dim=(0, 2, 3)).max())
    row_sum = float(magnitude.sum(dim=(1, 2, 3)).max())
    autocorrelation = float(abs_gram(kernel).sum(dim=1).max())
    patches = kernel.shape[2] * kernel.shape[3]
    reshaped = math.sqrt(patches) * gram_iteration(kernel.flatten(1))
    return min(math.sqrt(column_sum * row_sum), math.sqrt(autocorrelation), reshaped) * _ROUNDING


def abs_gram(weight: Tensor) -> Tensor:
    """Return the matrix of sums of abs(W W^T) over positions, from which T is made.

    weight: (rows, columns) or a convolution kernel (out, in, kh, kw); returns (out, out). The
    sum runs over all shifts of one kernel against another; at the border of a zero-padded image
    only some of them occur, so the sum bounds every row of |W W^T| there too.
    """
    if weight.dim() == 2:
        return (weight @ weight.T).abs()
    padding = (weight.shape[2] - 1, weight.shape[3] - 1)
    return F.conv2d(weight, weight, padding=padding).abs().sum(dim=(2, 3))


def diagonal_bound(weight: Tensor, q: Tensor) -> Tensor:
    """Return T with T_ii = sum_j |W W^T|_ij q_j / q_i, so that diag(T) - W W^T is positive.

    weight as in abs_gram; q: (out,), positive. Returns (out,). (SLL: arXiv 2303.03169, Theorem 1;
    AOL, q = 1: arXiv 2208.03160, Theorem 1.)
    """
    return abs_gram(weight) @ q / q


def excess(weight: Tensor, q: Tensor, inverse: Tensor) -> float:
    """Return the least delta >= 0 with inverse <= (1 + delta) / diagonal_bound, in float64.

    Says by how much a materialised diagonal `inverse`, computed in float32, may overshoot the
    exact 1 / T of the very weights that the layer uses.
    """
    bound = diagonal_bound(weight.detach().double(), q.detach().double())
    worst = float((bound * inverse.detach().double()).max()) * _ROUNDING
    # Written so that NaN stays NaN: max(0, nan) would be 0.
    return 0.0 if worst <= 1.0 else worst - 1.0
