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
    """Return an upper bound on the norm of a convolution of any size and stride.

    With zeros around the picture, or with opposite edges that meet. The smallest of four provable
    bounds: sqrt(norm_1 norm_inf); the row sums of the kernel's autocorrelation (arXiv 2208.03160);
    sqrt(kh kw) times the norm of the reshaped kernel; and that of gram_range, the tightest for
    kernels that are near orthogonal. kernel: (out_channels, in_channels, kh, kw).
    """
    kernel = kernel.detach().double()
    magnitude = kernel.abs()
    column_sum = float(magnitude.sum(dim=(0, 2, 3)).max())
    row_sum = float(magnitude.sum(dim=(1, 2, 3)).max())
    autocorrelation = float(abs_gram(kernel).sum(dim=1).max())
    patches = kernel.shape[2] * kernel.shape[3]
    reshaped = math.sqrt(patches) * gram_iteration(kernel.flatten(1))
    by_symbol = math.sqrt(gram_range(kernel)[1])
    bounds = (math.sqrt(column_sum * row_sum), math.sqrt(autocorrelation), reshaped, by_symbol)
    return min(bounds) * _ROUNDING


def gram_range(kernel: Tensor, *, n_frequencies: int = 16) -> tuple[float, float]:
    """Return a lower and an upper bound of the eigenvalues of A^T A, A the periodic convolution.

    They hold on pictures of any size, and the upper one for zero padding too, which cuts a part
    out of A. Those eigenvalues are those of the symbol's Gram matrices G(t), t in [0, 2 pi)^2, and
    u* G(t) u is a trigonometric polynomial of degree d = k - 1 in each variable. Such a p with
    |p - c| <= r on N equispaced points has |p - c| <= r / cos(pi d / N) everywhere, N > 2 d: about
    a maximum at distance s of the next point it lies above cos(d s) times it (M. Riesz; Ehlich &
    Zeller, Mathematische Zeitschrift 86, 1964). c and r come from the eigenvalues on the grid; the
    nearer they are to each other, the tighter. NaN for weights that are not finite.
    """
    kernel = kernel.detach().double()
    if not kernel.isfinite().all():
        return math.nan, math.nan
    wide = kernel.shape[0] < kernel.shape[1]
    sizes = [max(n_frequencies, 8 * (k - 1)) for k in kernel.shape[2:]]
    # Opposite frequencies have conjugate symbols: half of them are enough.
    symbol = torch.fft.rfft2(kernel, s=sizes).permute(2, 3, 0, 1)
    gram = symbol @ symbol.mH if wide else symbol.mH @ symbol
    eigenvalues = torch.linalg.eigvalsh(gram)
    low, high = float(eigenvalues.min()), float(eigenvalues.max())
    centre, reach = (low + high) / 2, (high - low) / 2
    for k, size in zip(kernel.shape[2:], sizes, strict=True):
        reach /= math.cos(math.pi * (k - 1) / size)
    slack = (_ROUNDING - 1) * high
    # More inputs than outputs: some direction is lost.
    return 0.0 if wide else max(0.0, centre - reach - slack), centre + reach + slack


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
