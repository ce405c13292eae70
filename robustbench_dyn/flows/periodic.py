"""Convolutions with periodic padding, kept nearly orthogonal by a penalty during training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PeriodicConv(nn.Module):
    """A x = K * x + b with periodic padding; orthogonal at initialisation, A^T A = I.

    Training does not keep A orthogonal; `orthogonality_penalty`, added to the loss, pulls it back
    (Wang et al., arXiv 1911.12207), and the bounds account for the rest of A^T A - I. With zero
    padding no such A is orthogonal, because it loses what it shifts over the border.
    Initialisation: delta-orthogonal, Xiao et al., arXiv 1806.05393, algorithm 1. kernel_size is
    odd.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, bias: bool = False
    ) -> None:
        super().__init__()
        self.radius = kernel_size // 2
        weight = torch.zeros(out_channels, in_channels, kernel_size, kernel_size)
        nn.init.orthogonal_(weight[:, :, self.radius, self.radius])
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        return F.conv2d(_wrap(x, self.radius), self.weight, self.bias)

    def step(
        self, x: Tensor, h: Tensor | float, bias: Tensor, sigma: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return x + h A^T sigma(A x + bias); in_channels = out_channels, b = 0."""
        # One padding, as wide as both convolutions need together.
        force = sigma(F.conv2d(_wrap(x, 2 * self.radius), self.weight, bias))
        adjoint = self.weight.transpose(0, 1).flip(2, 3)
        return x + F.conv2d(force, h * adjoint)

    def orthogonality_penalty(self) -> Tensor:
        """Return |K^T * K - I|_F^2, summed over all shifts; zero where A^T A = I."""
        columns = self.weight.transpose(0, 1)
        gram = F.conv2d(columns, columns, padding=2 * self.radius)
        identity = torch.zeros_like(gram)
        identity[:, :, 2 * self.radius, 2 * self.radius] = torch.eye(len(columns)).to(gram)
        return (gram - identity).square().sum()

    def gram_range(self) -> tuple[float, float]:
        """Return bounds of the eigenvalues of A^T A, for images of any size."""
        return gram_range(self.weight)

    def lipschitz_bound(self) -> float:
        """Return a bound of |A| for the current kernel."""
        return math.sqrt(self.gram_range()[1]) * (1 + 1e-12)


def gram_range(kernel: Tensor, *, n_frequencies: int = 16) -> tuple[float, float]:
    """Return a lower and an upper bound of the eigenvalues of A^T A, A the periodic convolution.

    Both hold for images of any size; the upper bound also holds for zero padding, which restricts
    A to a submatrix. The eigenvalues are those of the Gram matrices G(t) of the symbol, t in
    [0, 2 pi)^2, and u* G(t) u is a trigonometric polynomial of degree d = k - 1 in each variable. A
    polynomial p with |p - c| <= r on N > 2 d equispaced points has |p - c| <= r / cos(pi d / N)
    everywhere, because p at distance s from a maximum is at least cos(d s) times the maximum (M.
    Riesz; Ehlich & Zeller, Mathematische Zeitschrift 86, 1964). c and r come from the eigenvalues
    on the grid; the bounds are tight where these are close together. NaN for weights that are not
    finite.
    """
    kernel = kernel.detach().double()
    if not kernel.isfinite().all():
        return math.nan, math.nan
    wide = kernel.shape[0] < kernel.shape[1]
    sizes = [max(n_frequencies, 8 * (k - 1)) for k in kernel.shape[2:]]
    # Opposite frequencies have conjugate symbols, so that half of them suffice.
    symbol = torch.fft.rfft2(kernel, s=sizes).permute(2, 3, 0, 1)
    gram = symbol @ symbol.mH if wide else symbol.mH @ symbol
    eigenvalues = torch.linalg.eigvalsh(gram)
    low, high = float(eigenvalues.min()), float(eigenvalues.max())
    centre, deviation = (low + high) / 2, (high - low) / 2
    for k, size in zip(kernel.shape[2:], sizes, strict=True):
        deviation /= math.cos(math.pi * (k - 1) / size)
    # Covers the rounding errors of the eigenvalues in float64.
    slack = 1e-10 * high
    # With more inputs than outputs, A has a kernel.
    return 0.0 if wide else max(0.0, centre - deviation - slack), centre + deviation + slack


def _wrap(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (width,) * 4, mode="circular")
