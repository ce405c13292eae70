"""Equilibria of monotone operators: flows at infinite time, by an iteration of known rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.lipschitz.eigenvalues import gram, root_of_gram
from robustbench_dyn.lipschitz.norms import abs_gram
from robustbench_dyn.models.freezing import CachedParametrization

# Of the symmetric part of G: eigenvalues between 1 and 2, for which this step contracts most.
_STEP = 2 / 3
# Keeps the float32 matrix inside its constraint.
_SAFETY = 1.0 - 1e-5


class MonotoneEquilibrium(CachedParametrization):
    """z with z = relu((I - G) z + c (E x + b)): the equilibrium of z' = -z + relu(...).

    G = I + A^T A + S with |A| <= 1 and a skew-symmetric S, |S| <= skew: strongly monotone, so that
    there is one equilibrium for each x (arXiv 2006.08591, Proposition 1), and it is c-Lipschitz.
    E x = (x, -x) / sqrt(2) is an isometry to twice as many features; b are learned.

    What is computed is the forward-backward iteration z -> relu(z - s (G z - c (E x + b))), with s
    = 2/3, n_iterations times from 0; their number is fixed, so that no example depends on its
    batch. With q = |I - s G|, at most (1 + 2 skew) / 3 by construction:

    - n iterations are s c (1 + q + ... + q^(n - 1))-Lipschitz in x, as relu is nonexpansive. That
      is the bound of the network as it is computed; c = (1 - q) / s, with q of the construction,
      makes it at most 1.
    - they end within q^n / (1 - q) |z_1| of the equilibrium (Banach), z_1 the first iterate.
      n_iterations is the least number that makes this at most tolerance |z_1|.

    Raises ValueError where skew is not in [0, 1) or tolerance not in (0, 1).
    """

    def __init__(self, features: int, *, skew: float = 0.2, tolerance: float = 1e-6) -> None:
        super().__init__()
        if not (0 <= skew < 1 and 0 < tolerance < 1):
            raise ValueError(f"skew={skew} and tolerance={tolerance} must be in [0, 1) and (0, 1)")
        n, self.skew = 2 * features, skew
        slowest = (1 + 2 * skew) / 3
        self.gain = (1 - slowest) / _STEP
        self.n_iterations = math.ceil(math.log(tolerance * (1 - slowest)) / math.log(slowest))
        self.factor = nn.Parameter(nn.init.orthogonal_(torch.empty(n, n), gain=0.3))
        self.rotation = nn.Parameter(0.01 * torch.randn(n, n))
        self.bias = nn.Parameter(torch.zeros(n))

    def compute(self) -> Tensor:
        """Return I - s G, (2 features, 2 features), by which an iteration contracts its rounding.

        A is `factor`, its columns divided by the roots of their diagonal bound (arXiv 2208.03160)
        where that is above 1; S is the skew part of `rotation`, scaled down to its largest row sum.
        """
        with torch.autocast(self.factor.device.type, enabled=False):
            diagonal = abs_gram(self.factor.t()).sum(dim=1).clamp_min(1.0)
            a = self.factor * diagonal.rsqrt()
            s = self.rotation - self.rotation.t()
            s = s * (self.skew / s.abs().sum(dim=1).max().clamp_min(max(self.skew, 1e-12)))
            identity = torch.eye(len(a), dtype=a.dtype, device=a.device)
            return (1 - _STEP) * identity - _STEP * _SAFETY * (a.t() @ a + s)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last iterate, (batch, 2 features); x: (batch, features)."""
        drive, matrix = self._drive(x), self.value()
        z = F.relu(drive)
        for _ in range(self.n_iterations - 1):
            z = self._iterate(matrix, drive, z)
        return z

    def refined(self, factor: int) -> nn.Module:
        """Return the same equilibrium by `factor` times as many iterations."""
        return _Refined(self, factor)

    def first(self, x: Tensor) -> Tensor:
        """Return the first iterate, by which the solver's error is measured."""
        return F.relu(self._drive(x))

    def _drive(self, x: Tensor) -> Tensor:
        """Return s c (E x + b)."""
        drive = torch.cat([x, -x], dim=1) * math.sqrt(0.5) + self.bias
        return _STEP * self.gain * drive

    @staticmethod
    def _iterate(matrix: Tensor, drive: Tensor, z: Tensor) -> Tensor:
        return F.relu(F.linear(z, matrix) + drive)

    def rate(self) -> float:
        """Return a rigorous bound of q = |I - s G| for the current weights."""
        return root_of_gram(*gram(self.value()))

    def solver_error(self) -> float:
        """Return e with |z - z*| <= e |z_1|: infinite where the iteration may not converge."""
        q = self.rate()
        return q**self.n_iterations / (1 - q) * (1 + 1e-12) if q < 1 else math.inf

    def lipschitz_bound(self) -> float:
        """Return s c (1 + q + ... + q^(n - 1)), which holds whether or not q is below 1."""
        q = self.rate()
        powers = math.fsum(q**k for k in range(self.n_iterations))
        return _STEP * self.gain * powers * (1 + 1e-12)


class _Refined(nn.Module):
    """More iterations of the same equilibrium."""

    def __init__(self, equilibrium: MonotoneEquilibrium, factor: int) -> None:
        super().__init__()
        self.equilibrium, self.factor = equilibrium, factor

    def forward(self, x: Tensor) -> Tensor:
        solver = self.equilibrium
        z, matrix, drive = solver.first(x), solver.value(), solver._drive(x)
        for _ in range(self.factor * solver.n_iterations - 1):
            z = solver._iterate(matrix, drive, z)
        return z
