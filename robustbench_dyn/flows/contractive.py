"""Explicit Euler steps of damped Hamiltonian systems that contract by construction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from robustbench_dyn.flows.gradient import ConvGradientStep, DenseGradientStep, GradientStep
from robustbench_dyn.lipschitz.norms import excess


class ContractiveHamiltonianStep(GradientStep):
    """x -> x + (j O - g I) grad H(x): one explicit Euler step of a damped Hamiltonian system.

    O(q, p) = (p, -q) on the halves of the channels, and H(x) = k |x|^2 / 2 + sum_i R((W^T x + b)_i)
    / T_ii with T >= W^T W, so that the Hessians P of H lie in [k, k + 1] for every W. The damping g
    and the curvature k are computed from the two options so that a step is l-Lipschitz in L2:

    F = j O - g I is f = sqrt(j^2 + g^2) times an orthogonal matrix, and I + F P = F (P + F^-1) with
    F^-1 = -(j O + g I) / f^2. Hence |I + F P| <= f max_c |c - g / f^2| + j / f, c in [k, k + 1].
    With j = f sin(angle), g = f cos(angle), this is l for f k = u = cos + sin - l and f = 2 (cos -
    u), which makes both ends of [k, k + 1] equally bad. The logarithmic norm of the field is then
    at most l - 1, so that two solutions of x' = F grad H(x) part by at most exp((l - 1) t), and H
    falls in each step, since (k + 1) f^2 <= 2 g.
    angle: between the step and the gradient, in (0, 0.9); towards 0 it is a gradient step. bound:
    l, at most 1. Raises ValueError where no damping is enough. n_steps: steps of the same field.
    Source: contractive Hamiltonian networks, arXiv 2203.11805, where a scalar that scales the
    damping makes the flow contract; the bound of the discrete step is derived here.
    """

    def __init__(
        self,
        *shape: Any,
        angle: float = 0.1,
        bound: float = 1.0,
        activation: str = "tanh",
        **options: Any,
    ) -> None:
        super().__init__(*shape, activation=activation, **options)
        if self.weight.shape[1] % 2:
            raise ValueError(f"{self.weight.shape[1]} channels have no halves; give an even number")
        if self.activation.min_slope < 0:
            raise ValueError("the activation must increase, or H has no least curvature")
        cos, sin = math.cos(angle), math.sin(angle)
        shrunk = cos + sin - bound
        if not (0 < angle < 0.9 and 0 < bound <= 1 and 0 < shrunk < cos):
            raise ValueError(
                f"angle={angle} and bound={bound} leave no step: the angle must lie in (0, 0.9), "
                "and the bound above its sine and at most 1"
            )
        length = 2 * (cos - shrunk)
        self.rotation, self.damping = length * sin, length * cos
        self.curvature, self.contraction = shrunk / length, bound

    def compute(self) -> Tensor:
        """Return 1 / T as a vector, (terms,)."""
        return super().compute() / 2

    def field(self, x: Tensor) -> Tensor:
        """Return (j O - g I) grad H(x)."""
        scale = self._broadcast(self.value())
        force = self._adjoint(self.activation.function(self._arguments(x)) * scale)
        q, p = (self.curvature * x + force).chunk(2, dim=1)
        j, g = self.rotation, self.damping
        return torch.cat([j * p - g * q, -j * q - g * p], dim=1)

    def trajectory(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the state after each step."""
        for _ in range(self.n_steps):
            x = x + self.field(x)
            yield x

    def energy(self, x: Tensor) -> Tensor:
        """Return H(x), (batch,)."""
        return super().energy(x) + self.curvature / 2 * x.flatten(1).square().sum(dim=1)

    def lipschitz_bound(self) -> float:
        """Return the bound of n_steps steps, with the excess of the float32 1 / T."""
        too_large = excess(self.weight, self.log_q.exp(), self.value())
        length = math.hypot(self.rotation, self.damping)
        middle = self.damping / length**2
        # A sum, so that NaN stays NaN: a maximum might drop it.
        worst = max(middle - self.curvature, self.curvature + 1 - middle) + too_large
        # The last factor covers the rounding of these few operations.
        step = (length * worst + self.rotation / length) * (1 + 1e-12)
        bound: float = step**self.n_steps
        return bound


class DenseContractiveHamiltonianStep(ContractiveHamiltonianStep, DenseGradientStep):
    """A ContractiveHamiltonianStep on vectors, (batch, features) -> (batch, features)."""


class ConvContractiveHamiltonianStep(ContractiveHamiltonianStep, ConvGradientStep):
    """A ContractiveHamiltonianStep on images with zero padding."""
