"""Runge-Kutta steps that do not expand: circle contractivity for nonexpansive gradient flows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows.gradient import ConvGradientStep, DenseGradientStep, GradientStep
from robustbench_dyn.flows.integrators import EXPLICIT, Tableau
from robustbench_dyn.lipschitz.norms import excess

# Activations with sigma(c u) = c sigma(u) for c > 0, for which s is sigma itself.
_HOMOGENEOUS = frozenset({"relu", "leaky_relu", "leaky_relu_0.5"})


def circle_radius(tableau: Tableau) -> float:
    """Return the radius r of circle contractivity of an explicit method, 0 where there is none.

    Let (f(x) - f(y), x - y) <= -v |f(x) - f(y)|^2. With D = diag(b) and M = D A + A^T D - b b^T,
    two solutions of one step satisfy |x+ - y+|^2 = |x - y|^2 + 2h sum_i b_i (k_i, Y_i) - h^2 sum_ij
    M_ij (k_i, k_j), where k_i and Y_i are the differences of their stages. So the step does not
    expand where (2v / h) D + M is positive, which is h <= 2 v r with 1 / r the largest eigenvalue
    of -D^(-1/2) M D^(-1/2). (Dahlquist & Jeltsch 1979; Sherry et al., arXiv 2306.17332, section 3.)
    Explicit Euler, Heun's method and the classical method of order 4 have r = 1.
    """
    b = np.array(tableau.b)
    if (b <= 0).any():
        return 0.0
    a = np.zeros((len(b), len(b)))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    weighted = b[:, None] * a
    m = weighted + weighted.T - np.outer(b, b)
    # Less what the rounding of the eigenvalue may add.
    return float(1 / np.linalg.eigvalsh(-m / np.sqrt(np.outer(b, b))).max()) * (1 - 1e-12)


class RungeKuttaGradientStep(GradientStep):
    """A Runge-Kutta step of x' = -h W T^-1 sigma(W^T x + b) with h up to 2 r, and T >= W^T W.

    r is the circle_radius of the method. With S = (h / T)^(1/2) the field is -V s(V^T x + S b), for
    V = W S with |V|^2 <= h and s(u) = S sigma(u / S), whose slopes are in [0, 1]: it satisfies the
    condition of circle_radius with v = 1 / h at a step of 1, so that the step is 1-Lipschitz in L2
    for every W. It is computed in this form, since |V| is known: rounding grows with |V|, and that
    of W may be large. h is learned, h = 2 r sigmoid(step_logit), and starts at half of its largest
    value. method: "euler", "heun", "rk4" or "rk4_38". Raises ValueError for another method, and for
    an activation that is not increasing. n_steps: number of steps of the same field. Source: Sherry
    et al., arXiv 2306.17332.
    """

    def __init__(
        self, *shape: Any, method: str = "heun", activation: str = "relu", **options: Any
    ) -> None:
        super().__init__(*shape, activation=activation, **options)
        if method not in EXPLICIT:
            raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(EXPLICIT)}")
        if self.activation.min_slope < 0:
            raise ValueError("the activation must increase, or the field is not nonexpansive")
        self.method, self.radius = method, circle_radius(EXPLICIT[method])
        self.homogeneous = activation in _HOMOGENEOUS
        self.step_logit = nn.Parameter(torch.zeros(()))

    def compute(self) -> Tensor:
        """Return S, the root of h / T, as a vector, (terms,)."""
        return (super().compute() * (self.radius * torch.sigmoid(self.step_logit))).sqrt()

    def trajectory(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the state after each step."""
        tableau, root = EXPLICIT[self.method], self.value()
        scaled, bias = self._scaled(root), self._broadcast(self.bias * root)
        root = self._broadcast(root)
        for _ in range(self.n_steps):
            slopes = list[Tensor]()
            for row in tableau.a:
                inside = x
                for a, slope in zip(row, slopes, strict=True):
                    inside = inside - a * slope if a else inside
                inner = self._product(scaled, inside) + bias
                if self.homogeneous:
                    force = self.activation.function(inner)
                else:
                    force = root * self.activation.function(inner / root)
                slopes.append(self._transposed(scaled, force))
            for b, slope in zip(tableau.b, slopes, strict=True):
                x = x - b * slope
            yield x

    def lipschitz_bound(self) -> float:
        """Return 1, or more where rounding makes |V|^2 larger than 2 r: by a relative excess d.

        The field is l-Lipschitz with l = 2 r (1 + d), and satisfies the condition of circle_radius
        with v = 1 / l. The part of 2 v D + M that is not positive is at most (1 / r - 2 v) D, and
        the stages are K_i-Lipschitz: |x+ - y+|^2 <= (1 + (1 / r - 2 v) sum_i b_i K_i^2) |x - y|^2.
        """
        tableau, longest, root = EXPLICIT[self.method], 2 * self.radius, self.value()
        inverse = torch.full_like(root, 1 / longest, dtype=torch.float64)
        too_long = excess(self._scaled(root), self.log_q.exp() / root, inverse)
        constant, stages = longest * (1 + too_long), list[float]()
        for row in tableau.a:
            inner = sum(abs(a) * stage for a, stage in zip(row, stages, strict=True))
            stages.append(constant * (1 + inner))
        gained = sum(b * stage**2 for b, stage in zip(tableau.b, stages, strict=True))
        step = math.sqrt(1 + too_long / self.radius * gained)
        bound: float = step**self.n_steps
        # Covers the rounding of these few operations.
        return bound if bound == 1.0 else bound * (1 + 1e-12)

    def energy(self, x: Tensor) -> Tensor:
        """Return V(x), (batch,), of which the field is minus the gradient."""
        squared = self._broadcast(self.value().square())
        terms = self.activation.primitive(self._arguments(x)) * squared
        return terms.flatten(1).sum(dim=1)

    def _scaled(self, root: Tensor) -> Tensor:
        """Return V^T, of the shape of `weight`."""
        return self.weight * root.reshape(-1, *[1] * (self.weight.dim() - 1))

    def _product(self, weight: Tensor, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _product()")

    def _transposed(self, weight: Tensor, force: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _transposed()")


class DenseRungeKuttaStep(RungeKuttaGradientStep, DenseGradientStep):
    """A RungeKuttaGradientStep on vectors, (batch, features) -> (batch, features)."""

    def _product(self, weight: Tensor, x: Tensor) -> Tensor:
        return F.linear(x, weight)

    def _transposed(self, weight: Tensor, force: Tensor) -> Tensor:
        return F.linear(force, weight.t())


class ConvRungeKuttaStep(RungeKuttaGradientStep, ConvGradientStep):
    """A RungeKuttaGradientStep on images with zero padding; T from the kernel's autocorrelation."""

    def _product(self, weight: Tensor, x: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=self.padding)

    def _transposed(self, weight: Tensor, force: Tensor) -> Tensor:
        return F.conv_transpose2d(force, weight, padding=self.padding)
