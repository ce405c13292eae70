"""Explicit Euler steps of nonexpansive gradient flows x' = -W D sigma(W^T x + b)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows.activations import find_activation
from robustbench_dyn.flows.orthogonal import Orthonormal
from robustbench_dyn.lipschitz.norms import diagonal_bound, excess
from robustbench_dyn.models.freezing import CachedParametrization

# Keeps the float32 diagonal below the exact one, so that the bound is 1 and not above.
_SAFETY = 1.0 - 1e-5
# Keeps the step finite for a term whose weights are all zero; a larger T is always valid.
_FLOOR = 1e-12


class GradientStep(CachedParametrization):
    """x -> x - grad V(x) = x - 2 W T^-1 sigma(W^T x + b), V(x) = 2 sum_i R((W^T x + b)_i) / T_ii.

    R' = sigma, and W^T W <= T, so that grad V is 2 max abs(sigma')-Lipschitz for every W and every
    q > 0, and V decreases along the steps. Where sigma increases, V is convex and the step is
    1-Lipschitz in L2. Order 1. n_steps: number of steps, all with the same V.
    Source: SLL, arXiv 2303.03169, Theorem 3; as a gradient flow, arXiv 2210.02373.
    `weight` holds W^T: one row, or one filter, per term of the potential (per hidden unit).
    """

    def __init__(
        self, weight_shape: tuple[int, ...], *, activation: str = "relu", n_steps: int = 1
    ) -> None:
        super().__init__()
        self.activation, self.n_steps = find_activation(activation), n_steps
        self.weight = nn.Parameter(torch.empty(weight_shape))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(weight_shape[0]))
        self.log_q = nn.Parameter(torch.zeros(weight_shape[0]))

    def compute(self) -> Tensor:
        """Return 2 / T as a vector, (terms,)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            diagonal = diagonal_bound(self.weight, self.log_q.exp())
            return 2 * _SAFETY / diagonal.clamp_min(_FLOOR)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after n_steps steps, of x's shape."""
        for state in self.trajectory(x):
            x = state
        return x

    def trajectory(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the state after each step."""
        scale = self._broadcast(self.value())
        for _ in range(self.n_steps):
            x = x - self._adjoint(self.activation.function(self._arguments(x)) * scale)
            yield x

    def energy(self, x: Tensor) -> Tensor:
        """Return V(x), (batch,)."""
        terms = self.activation.primitive(self._arguments(x)) * self._broadcast(self.value())
        return terms.flatten(1).sum(dim=1)

    def lipschitz_bound(self) -> float:
        """Return (1 + 2 delta)^n_steps for increasing sigma, delta the relative excess of 2 / T.

        The float32 diagonal 2 / T is at most 1 + delta times the exact one S. With D in
        [0, 1 + delta], I - W S D W^T extrapolates a convex combination by delta. Slopes down to -s
        add 2 s (1 + delta).
        """
        delta = excess(self.weight, self.log_q.exp(), self.value() / 2)
        decrease = max(0.0, -self.activation.min_slope)
        step: float = 1.0 + 2.0 * delta + 2.0 * decrease * (1.0 + delta)
        return step**self.n_steps

    def _arguments(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _arguments()")

    def _adjoint(self, force: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _adjoint()")

    def _broadcast(self, scale: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _broadcast()")


class DenseGradientStep(GradientStep):
    """A gradient step on vectors, (batch, features) -> (batch, features)."""

    def __init__(self, features: int, terms: int, **options: Any) -> None:
        super().__init__((terms, features), **options)

    def _arguments(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def _adjoint(self, force: Tensor) -> Tensor:
        return F.linear(force, self.weight.t())

    def _broadcast(self, scale: Tensor) -> Tensor:
        return scale


class OrthonormalGradientStep(Orthonormal):
    """x -> x - 2 W relu(W^T x + b) with orthonormal columns of W, on (batch, features).

    The gradient step of V(x) = sum_i 2 R((W^T x + b)_i) with the largest step size that is
    nonexpansive for |W| = 1 (arXiv 2210.02373, section 3). No rescaling shortens the step, so that
    it preserves gradient norms better than a GradientStep. `weight` holds W^T, (terms, features),
    terms <= features. blocks: W^T x is summed in so many parts of the features, since the worst
    case of a float32 sum grows with the number of its summands.
    """

    step_size = 2.0 * _SAFETY

    def __init__(self, features: int, terms: int, *, blocks: int = 1) -> None:
        super().__init__(terms, features)
        self.bias = nn.Parameter(torch.zeros(terms))
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after one step; x: (batch, features)."""
        force = F.relu(self._arguments(x)) * self.step_size
        return x - F.linear(force, self.weight.t())

    def _arguments(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.blocks == 1:
            return F.linear(x, weight, self.bias)
        parts = zip(x.chunk(self.blocks, 1), weight.chunk(self.blocks, 1), strict=True)
        return sum((F.linear(part, columns) for part, columns in parts), start=self.bias)

    def energy(self, x: Tensor) -> Tensor:
        """Return V(x), (batch,)."""
        return self.step_size / 2 * F.relu(self._arguments(x)).square().sum(dim=1)

    def lipschitz_bound(self) -> float:
        """Return max(1, s |W|^2 - 1): each Jacobian is I - s W D W^T with 0 <= D <= I."""
        bound = self.step_size * self.squared_norm() - 1.0
        # Written so that NaN stays NaN: max(1, nan) would be 1.
        return 1.0 if bound <= 1.0 else bound


class ConvGradientStep(GradientStep):
    """A gradient step on images with zero padding; T from the kernel's autocorrelation.

    (batch, channels, height, width) -> the same shape.
    """

    def __init__(self, channels: int, terms: int, *, kernel_size: int = 3, **options: Any) -> None:
        super().__init__((terms, channels, kernel_size, kernel_size), **options)
        self.padding = kernel_size // 2

    def _arguments(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)

    def _adjoint(self, force: Tensor) -> Tensor:
        return F.conv_transpose2d(force, self.weight, padding=self.padding)

    def _broadcast(self, scale: Tensor) -> Tensor:
        return scale[:, None, None]
