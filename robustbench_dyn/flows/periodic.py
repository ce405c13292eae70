"""Convolutions on pictures whose opposite edges meet: near orthogonal where training wants it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PeriodicConv(nn.Module):
    """A x = K * x + b with periodic borders; delta-orthogonal at the start, A^T A = I.

    Nothing that training does keeps it so; `orthogonality_penalty`, added to the loss, pulls it
    back (Wang et al., arXiv 1911.12207). What is left of A^T A - I is in the bounds. With zeros
    around the picture no such A would be orthogonal: what is shifted over the border is lost. The
    start is that of Xiao et al., arXiv 1806.05393, algorithm 1. kernel_size is odd.
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
        # Wrapped once, as far as both convolutions look.
        force = sigma(F.conv2d(_wrap(x, 2 * self.radius), self.weight, bias))
        adjoint = self.weight.transpose(0, 1).flip(2, 3)
        return x + F.conv2d(force, h * adjoint)

    def orthogonality_penalty(self) -> Tensor:
        """Return |K^T * K - I|_F^2, the sum over all shifts: zero where A^T A = I."""
        columns = self.weight.transpose(0, 1)
        gram = F.conv2d(columns, columns, padding=2 * self.radius)
        middle = torch.zeros_like(gram)
        middle[:, :, 2 * self.radius, 2 * self.radius] = torch.eye(len(columns)).to(gram)
        return (gram - middle).square().sum()

    def gram_range(self) -> tuple[float, float]:
        """Return bounds of the eigenvalues of A^T A, on pictures of any size."""
        return gram_range(self.weight)

    def lipschitz_bound(self) -> float:
        """Return a bound of |A|, of the kernel as it is."""
        return math.sqrt(self.gram_range()[1]) * (1 + 1e-12)


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
    # Covers the rounding of eigenvalues in float64.
    slack = 1e-10 * high
    # More inputs than outputs: some direction is lost.
    return 0.0 if wide else max(0.0, centre - reach - slack), centre + reach + slack


def _wrap(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (width,) * 4, mode="circular")
