"""Explicit Euler steps of nonexpansive gradient flows x' = -W D sigma(W^T x + b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows.frozen import Derived
from robustbench_dyn.flows.norms import diagonal_bound, excess

# Keeps the float32 diagonal below the exact one, so that the bound comes out at 1 and not above.
_SAFETY = 1.0 - 1e-5


class GradientStep(Derived):
    """x -> x - 2 W T^-1 relu(W^T x + b), one Euler step down a convex potential.

    V(x) = sum_i 2 T_ii^-1 R((W^T x + b)_i) with R' = relu is convex and the step is its gradient
    step; since W^T W <= T, the step is 1-Lipschitz in L2 for every W and every q > 0.
    Order 1. Source: SLL, arXiv 2303.03169, Theorem 3; as a gradient flow, arXiv 2210.02373.
    `weight` holds W^T: one row (or one filter) for each term of the potential.
    """

    def __init__(self, weight_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(weight_shape))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(weight_shape[0]))
        self.log_q = nn.Parameter(torch.zeros(weight_shape[0]))

    def derive(self) -> Tensor:
        """Return 2 / T as a vector, (terms,)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return 2 * _SAFETY / diagonal_bound(self.weight, self.log_q.exp())

    def lipschitz_bound(self) -> float:
        """Return 1 + 2 delta, where 2 / T as used exceeds the exact one by a factor 1 + delta.

        With D in [0, 1 + delta], I - W S D W^T is a convex combination's extrapolation by delta.
        """
        return 1.0 + 2.0 * excess(self.weight, self.log_q.exp(), self.derived() / 2)


class DenseGradientStep(GradientStep):
    """A gradient step on vectors, (batch, features) -> (batch, features)."""

    def __init__(self, features: int, terms: int) -> None:
        super().__init__((terms, features))

    def forward(self, x: Tensor) -> Tensor:
        """Step once; x: (batch, features)."""
        force = F.relu(F.linear(x, self.weight, self.bias)) * self.derived()
        return x - F.linear(force, self.weight.t())


class ConvGradientStep(GradientStep):
    """A gradient step on images with zero padding; T from the kernel's autocorrelation."""

    def __init__(self, channels: int, terms: int, *, kernel_size: int = 3) -> None:
        super().__init__((terms, channels, kernel_size, kernel_size))
        self.padding = kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        """Step once; x: (batch, channels, height, width)."""
        force = F.relu(F.conv2d(x, self.weight, self.bias, padding=self.padding))
        force = force * self.derived()[:, None, None]
        return x - F.conv_transpose2d(force, self.weight, padding=self.padding)
