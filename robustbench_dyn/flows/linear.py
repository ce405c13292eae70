"""Linear layers before and after a flow, with known norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.lipschitz.norms import abs_gram, conv_norm, matrix_norm
from robustbench_dyn.models.freezing import CachedParametrization


class UnitNormConv(CachedParametrization):
    """A zero-padded convolution divided by a rigorous bound of its norm, so that its norm is <= 1.

    The bound is the largest row sum of the kernel's autocorrelation (arXiv 2208.03160). It is
    differentiable, and not tight, so that the norm of the result is usually below 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.padding = kernel_size // 2

    def compute(self) -> Tensor:
        """Return the kernel divided by its bound."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.weight / abs_gram(self.weight).sum(dim=1).max().sqrt().clamp_min(1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        return F.conv2d(x, self.value(), self.bias, padding=self.padding)

    def lipschitz_bound(self) -> float:
        """Return a bound of the norm of the normalised convolution."""
        return conv_norm(self.value())


class AlmostOrthogonalConv(UnitNormConv):
    """x -> W T^-1/2 x + b with T_ii = sum_j |W^T W|_ij: one scale per input channel.

    1-Lipschitz for every W, and orthogonal where W is; W starts as the identity. Source: AOL, arXiv
    2208.03160, Theorem 1 and section 5.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size=kernel_size)
        nn.init.dirac_(self.weight)

    def compute(self) -> Tensor:
        """Return W T^-1/2, a kernel."""
        with torch.autocast(self.weight.device.type, enabled=False):
            diagonal = abs_gram(self.weight.transpose(0, 1)).sum(dim=1)
            return self.weight * diagonal.clamp_min(1e-12).rsqrt()[:, None, None]


class AlmostOrthogonalLinear(CachedParametrization):
    """AlmostOrthogonalConv on vectors, (batch, in_features) -> (batch, out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(out_features, in_features)))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def compute(self) -> Tensor:
        """Return W T^-1/2, (out_features, in_features)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            diagonal = abs_gram(self.weight.t()).sum(dim=1)
            return self.weight * diagonal.clamp_min(1e-12).rsqrt()

    def forward(self, x: Tensor) -> Tensor:
        """Return W T^-1/2 x + b."""
        return F.linear(x, self.value(), self.bias)

    def lipschitz_bound(self) -> float:
        """Return a bound of the norm of W T^-1/2."""
        return matrix_norm(self.value())


class ZeroPadChannels(nn.Module):
    """Lift (batch, c, h, w) to more channels by appending zeros; an isometry."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Append zero channels."""
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))

    def lipschitz_bound(self) -> float:
        """Return 1."""
        return 1.0
