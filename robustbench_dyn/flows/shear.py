"""Alternating shears of the two halves of a state: volume-preserving; symplectic for gradients."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from robustbench_dyn.flows.fields import ConvPotential
from robustbench_dyn.lipschitz.bounds import lipschitz_bound


class ShearStep(nn.Module):
    """q+ = q + h f(p), then p+ = p + h g(q+), where (q, p) are the two halves of the channels.

    Symplectic Euler for x' = (f(p), g(q)), order 1; symmetric=True composes h/2 of the first, h of
    the second and h/2 of the first shear (Stoermer-Verlet, order 2). det J = 1 for any f and g,
    because each shear is unit triangular; the inverse is exact up to rounding. (arXiv 2210.02373,
    section 2.)
    """

    def __init__(
        self, f: nn.Module, g: nn.Module, *, step_size: float = 0.5, symmetric: bool = False
    ) -> None:
        super().__init__()
        self.f, self.g = f, g
        self.step_size, self.symmetric = step_size, symmetric

    @property
    def order(self) -> int:
        """The order of the splitting."""
        return 2 if self.symmetric else 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after one step; x: (batch, channels, ...), channels even."""
        q, p = x.chunk(2, dim=1)
        for updates_q, h in self._shears():
            if updates_q:
                q = q + h * self.f(p)
            else:
                p = p + h * self.g(q)
        return torch.cat([q, p], dim=1)

    def inverse(self, x: Tensor) -> Tensor:
        """Return the state that forward maps to x."""
        q, p = x.chunk(2, dim=1)
        for updates_q, h in reversed(self._shears()):
            if updates_q:
                q = q - h * self.f(p)
            else:
                p = p - h * self.g(q)
        return torch.cat([q, p], dim=1)

    def _shears(self) -> list[tuple[bool, float]]:
        h = self.step_size
        if self.symmetric:
            return [(True, h / 2), (False, h), (True, h / 2)]
        return [(True, h), (False, h)]

    def lipschitz_bound(self) -> float:
        """Return the product over the shears: [[1, S], [0, 1]] has norm (s + sqrt(s^2 + 4)) / 2."""
        bound = 1.0
        for updates_q, h in self._shears():
            s = abs(h) * lipschitz_bound(self.f if updates_q else self.g)
            bound *= (s + math.sqrt(s * s + 4)) / 2
        # Covers the rounding errors of this product of positive numbers.
        return bound * (1 + 1e-12)


class HamiltonianStep(ShearStep):
    """q+ = q + h grad K(p), p+ = p - h grad V(q+): symplectic, J^T Omega J = Omega, for any h.

    H(q, p) = K(p) + V(q) with potentials sum_i R((A x + b)_i), on the two halves of the channels.
    """

    def __init__(
        self,
        channels: int,
        terms: int,
        *,
        kernel_size: int = 3,
        step_size: float = 0.5,
        symmetric: bool = False,
        activation: str = "tanh",
    ) -> None:
        if channels % 2:
            raise ValueError(f"channels={channels} must be even; half of them are momenta")
        kinetic, potential = (
            ConvPotential(channels // 2, terms, kernel_size=kernel_size, activation=activation)
            for _ in range(2)
        )
        super().__init__(kinetic, _Negative(potential), step_size=step_size, symmetric=symmetric)

    def energy(self, x: Tensor) -> Tensor:
        """Return H(q, p), (batch,), which the flow preserves up to O(h^order)."""
        q, p = x.chunk(2, dim=1)
        kinetic, potential = cast(ConvPotential, self.f), cast(_Negative, self.g).net
        return kinetic.energy(p) + cast(ConvPotential, potential).energy(q)


class _Negative(nn.Module):
    """-net(x)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        negative: Tensor = -self.net(x)
        return negative

    def lipschitz_bound(self) -> float:
        return lipschitz_bound(self.net)
