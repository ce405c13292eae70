"""Shears of the two halves of a state in turn: volume-preserving, and symplectic with gradients."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from robustbench_dyn.flows.fields import ConvPotential
from robustbench_dyn.lipschitz.bounds import lipschitz_bound


class ShearStep(nn.Module):
    """q+ = q + h f(p), then p+ = p + h g(q+), for (q, p) the two halves of the channels.

    Symplectic Euler for x' = (f(p), g(q)), order 1; symmetric=True composes h/2 of the first, h of
    the second, h/2 of the first (Stoermer-Verlet, order 2). det J = 1 for any f and g, since each
    shear is unit triangular; the inverse is exact up to rounding. (arXiv 2210.02373, section 2.)
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
        """Step once; x: (batch, channels, ...), channels even."""
        q, p = x.chunk(2, dim=1)
        for of_q, share in self._shears():
            if of_q:
                q = q + share * self.f(p)
            else:
                p = p + share * self.g(q)
        return torch.cat([q, p], dim=1)

    def inverse(self, x: Tensor) -> Tensor:
        """Return what forward maps to x."""
        q, p = x.chunk(2, dim=1)
        for of_q, share in reversed(self._shears()):
            if of_q:
                q = q - share * self.f(p)
            else:
                p = p - share * self.g(q)
        return torch.cat([q, p], dim=1)

    def _shears(self) -> list[tuple[bool, float]]:
        h = self.step_size
        if self.symmetric:
            return [(True, h / 2), (False, h), (True, h / 2)]
        return [(True, h), (False, h)]

    def lipschitz_bound(self) -> float:
        """Return the product over the shears: [[1, S], [0, 1]] has norm (s + sqrt(s^2 + 4)) / 2."""
        bound = 1.0
        for of_q, share in self._shears():
            s = abs(share) * lipschitz_bound(self.f if of_q else self.g)
            bound *= (s + math.sqrt(s * s + 4)) / 2
        # A few roundings of numbers of one sign.
        return bound * (1 + 1e-12)


class HamiltonianStep(ShearStep):
    """q+ = q + h grad K(p), p+ = p - h grad V(q+): symplectic, J^T Omega J = Omega, for any h.

    H(q, p) = K(p) + V(q) with potentials sum_i R((A x + b)_i), on the two halves of the channels.
    """

    def __init__(
        self, channels: int, terms: int, *, kernel_size: int = 3, step_size: float = 0.5,
        symmetric: bool = False, activation: str = "tanh",
    ) -> None:  # fmt: skip
        if channels % 2:
            raise ValueError(f"channels={channels} must be even: half of them are momenta")
        kinetic, potential = (
            ConvPotential(channels // 2, terms, kernel_size=kernel_size, activation=activation)
            for _ in range(2)
        )
        super().__init__(kinetic, _Negative(potential), step_size=step_size, symmetric=symmetric)

    def energy(self, x: Tensor) -> Tensor:
        """Return H(q, p), (batch,): kept up to O(h^order) along the flow."""
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
