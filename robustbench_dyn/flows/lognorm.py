"""Flows whose field has a logarithmic norm of at most delta, and their explicit Euler steps."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows.activations import find_activation
from robustbench_dyn.lipschitz.eigenvalues import gram, root_of_gram

# Keeps the float32 weights inside their constraint; the rounding of a retraction is far less.
_SAFETY = 1e-6


class AffineField(nn.Module):
    """f(x) = sigma(A x + b) with a square matrix A, `weight`; sigma has slopes in [a, 1]."""

    def __init__(self, features: int, *, activation: str) -> None:
        super().__init__()
        self.activation = find_activation(activation)
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(features, features), gain=0.1))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the velocity, (batch, features)."""
        return self.activation.function(F.linear(x, self.weight, self.bias))


class LogNormFlow(nn.Module):
    """x' = sigma(A x + b), logarithmic norm at most delta, in n_steps explicit Euler steps of h.

    The logarithmic norm of a matrix is the largest eigenvalue of its symmetric part. Jacobians of
    the field are D A with a diagonal D of slopes in [a, 1]. A is kept in the set where

        |I + h D A| <= 1 + h delta  for every D,

    so that n_steps steps are (1 + h delta)^n_steps <= exp(delta T)-Lipschitz, T = n_steps h. That
    is a bound of the network as it is computed. It also bounds the flow: as |I + h J| is at least
    1 + h mu(J), mu(D A) <= delta, and the flow is exp(delta T)-Lipschitz (arXiv 2503.15696). The
    set is convex, so that shorter steps are in it too: I + s D A lies between I and I + h D A for
    s < h. `retract()`, which a training loop must call after each optimizer step, moves A towards
    -I, which is inside, until it is in the set. (Least changes of weights for a given logarithmic
    norm: arXiv 2501.10740.) Raises ValueError where -I is not inside: for a slope a of 0 with delta
    0 or less, or h above 1.
    """

    def __init__(
        self,
        features: int,
        *,
        delta: float = 0.0,
        duration: float = 1.0,
        n_steps: int = 2,
        activation: str = "leaky_relu_0.5",
    ) -> None:
        super().__init__()
        self.field = AffineField(features, activation=activation)
        self.delta, self.duration, self.n_steps = delta, duration, n_steps
        self.slope = self.field.activation.min_slope
        if not (0 < self.h <= 1 and self.slope >= 0 and 1 - self.h * self.slope < self._largest):
            raise ValueError(
                f"delta={delta}, duration={duration}, n_steps={n_steps} and {activation} leave no "
                "matrix: take steps of at most 1 and an activation with slopes above -delta"
            )
        self.retract()

    @property
    def h(self) -> float:
        """The step size."""
        return self.duration / self.n_steps

    @property
    def _largest(self) -> float:
        return (1 + self.h * self.delta) * (1 - _SAFETY)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after n_steps steps; x: (batch, features)."""
        for state in self.trajectory(x):
            x = state
        return x

    def trajectory(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the state after each step."""
        for _ in range(self.n_steps):
            x = x + self.h * self.field(x)
            yield x

    @torch.no_grad()
    def retract(self) -> None:
        """Move A along the line to -I, no further than the bound of a step asks for.

        With t of step_bound fixed, the bound L is a norm of an affine map of A, hence convex: the
        point at the share (largest - L(-I)) / (L(A) - L(-I)) of the way from -I to A has a bound
        of at most `largest`.
        """
        weight = self.field.weight
        if not bool(weight.isfinite().all()):
            return
        identity = torch.eye(len(weight), dtype=torch.float64, device=weight.device)
        exact, t = weight.double(), self._best_split(weight)
        bound = self._estimate(exact, t)
        if bound <= self._largest:
            return
        inside = self._estimate(-identity, t)
        share = max(0.0, (self._largest - inside) / (bound - inside))
        weight.copy_(share * exact - (1 - share) * identity)

    def _parts(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return I + h c A and h r A, where the slopes lie within r of c; float64."""
        weight = weight.detach().double()
        c, r = (1 + self.slope) / 2, (1 - self.slope) / 2
        identity = torch.eye(len(weight), dtype=torch.float64, device=weight.device)
        return identity + self.h * c * weight, self.h * r * weight

    def _best_split(self, weight: Tensor) -> float:
        """Return t = |h r A| / |I + h c A|, the best where both attain their norm at once."""
        middle, spread = (torch.linalg.matrix_norm(m, 2) for m in self._parts(weight))
        return min(max(float(spread / middle), 1e-3), 1e3)

    def _estimate(self, weight: Tensor, t: float) -> float:
        middle, spread = self._parts(weight)
        total = (1 + t) * middle.T @ middle + (1 + 1 / t) * spread.T @ spread
        return float(torch.linalg.eigvalsh(total)[-1].clamp_min(0).sqrt())

    def step_bound(self) -> float:
        """Return a rigorous bound of |I + h D A| for all diagonal D with entries in [a, 1].

        D = c + r E with |E| <= 1, so for any t > 0: |(I + h D A) x|^2 <= (1 + t) |(I + h c A) x|^2
        + (1 + 1 / t) |h r A x|^2, a quadratic form whose largest eigenvalue is bounded.
        """
        if not bool(self.field.weight.isfinite().all()):
            return math.nan
        t = self._best_split(self.field.weight)
        (middle, first), (spread, second) = map(gram, self._parts(self.field.weight))
        total = (1 + t) * middle + (1 + 1 / t) * spread
        rounding = 2 * ((1 + t) * first + (1 + 1 / t) * second)
        return root_of_gram(total, rounding)

    def lipschitz_bound(self) -> float:
        """Return the bound of n_steps steps: at most exp(delta T) after a retraction."""
        bound: float = self.step_bound() ** self.n_steps * (1 + 1e-12)
        return bound

    def refined(self, factor: int) -> nn.Module:
        """Return the same flow in `factor` times as many steps."""
        return _Refined(self, factor)


class _Refined(nn.Module):
    def __init__(self, flow: LogNormFlow, factor: int) -> None:
        super().__init__()
        self.flow, self.factor = flow, factor

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.factor * self.flow.n_steps):
            x = x + self.flow.h / self.factor * self.flow.field(x)
        return x
