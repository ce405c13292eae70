"""Explicit Euler steps of nonexpansive gradient flows x' = -W D sigma(W^T x + b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows.frozen import Derived
from robustbench_dyn.flows.norms import diagonal_bound, excess

# Keeps the float32 diagonal below the exact one, so that the bound comes out at 1 and not above.
_SAFETY = 1.0 - 1e-5
# Keeps the step of a term whose weights are all zero finite; a larger T is always allowed.
_FLOOR = 1e-12


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
            diagonal = diagonal_bound(self.weight, self.log_q.exp())
            return 2 * _SAFETY / diagonal.clamp_min(_FLOOR)

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


class OrthonormalGradientStep(nn.Module):
    """x -> x - 2 W relu(W^T x + b) with orthonormal columns of W, on (batch, features).

    The gradient step of V(x) = sum_i 2 R((W^T x + b)_i), at the longest step that is nonexpansive
    because |W| = 1 exactly (arXiv 2210.02373, section 3). No rescaling shortens it, so it passes
    on more of the gradient than a GradientStep does; in exchange training must call `retract()`
    after each optimizer step. `weight` holds W^T, (terms, features), terms <= features.
    """

    step_size = 2.0 * _SAFETY

    def __init__(self, features: int, terms: int) -> None:
        super().__init__()
        if terms > features:
            raise ValueError(f"{terms} orthonormal terms do not fit into {features} features")
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(terms, features)))
        self.bias = nn.Parameter(torch.zeros(terms))

    def forward(self, x: Tensor) -> Tensor:
        """Step once; x: (batch, features)."""
        force = F.relu(F.linear(x, self.weight, self.bias)) * self.step_size
        return x - F.linear(force, self.weight.t())

    @torch.no_grad()
    def retract(self) -> None:
        """Put the rows of `weight` back onto the Stiefel manifold, by the QR retraction.

        QR by Cholesky; Absil, Mahony & Sepulchre, Optimization Algorithms on Matrix Manifolds,
        2008, example 4.1.3.
        """
        lower = torch.linalg.cholesky(self.weight @ self.weight.t())
        self.weight.copy_(torch.linalg.solve_triangular(lower, self.weight, upper=False))

    def lipschitz_bound(self) -> float:
        """Return max(1, s |W|^2 - 1): each Jacobian is I - s W D W^T with 0 <= D <= I.

        The weights as they are need not be orthonormal: |W|^2 is at most the largest row sum of
        |W^T W|, in float64.
        """
        weight = self.weight.detach().double()
        squared_norm = float(diagonal_bound(weight, weight.new_ones(len(weight))).max())
        bound = self.step_size * squared_norm * (1.0 + 1e-10) - 1.0
        # Written so that NaN stays NaN: max(1, nan) would be 1.
        return 1.0 if bound <= 1.0 else bound


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
