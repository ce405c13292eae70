"""Sphere-preserving flows: x' = S(x) x with S(x) skew-symmetric, in steps that keep the norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.lipschitz.norms import gram_iteration


class SphereField(nn.Module):
    """f(x) = S(x) x with S(x) = U D(x) V^T - V D(x) U^T, D(x) = diag(tanh(W x + b)): skew.

    U, V: (features, rank); W: (rank, features). x^T f(x) = 0, so that the exact flow keeps the
    norm; explicit methods drift. (arXiv 2210.02373, section 3: the sphere-preserving part of a
    field.)
    """

    def __init__(self, features: int, rank: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.empty(features, rank))
        self.v = nn.Parameter(torch.empty(features, rank))
        self.weight = nn.Parameter(torch.empty(rank, features))
        self.bias = nn.Parameter(torch.zeros(rank))
        for parameter in (self.u, self.v, self.weight):
            nn.init.orthogonal_(parameter)

    def gates(self, x: Tensor) -> Tensor:
        """Return the diagonal of D(x), (batch, rank)."""
        return torch.tanh(F.linear(x, self.weight, self.bias))

    def forward(self, _t: float, x: Tensor) -> Tensor:
        """Return the velocity; x: (batch, features)."""
        gates = self.gates(x)
        return (gates * (x @ self.v)) @ self.u.T - (gates * (x @ self.u)) @ self.v.T


class SphereStep(nn.Module):
    """x+ = Cay(h S(m)) x, with Cay(A) = (I - A / 2)^-1 (I + A / 2) and m half an Euler step from x.

    Cay(A) is orthogonal, so that the norm is kept up to rounding for every h. Order 2 (Hairer,
    Lubich & Wanner, Geometric Numerical Integration, IV.8: a Magnus method with the midpoint rule
    and the Cayley map). S has rank 2 r, so that one solve of that size suffices (Woodbury).
    Explicit Euler, the negative control, is Flow(SphereField(...)). max_norm: the largest norm of
    an input; only lipschitz_bound uses it.
    """

    order = 2

    def __init__(
        self, features: int, rank: int, *, step_size: float = 1.0, max_norm: float = torch.inf
    ) -> None:
        super().__init__()
        self.field = SphereField(features, rank)
        self.step_size, self.max_norm = step_size, max_norm

    def forward(self, x: Tensor) -> Tensor:
        """Return x+; x: (batch, features)."""
        h, field = self.step_size, self.field
        gates = field.gates(x + h / 2 * field(0.0, x))
        # S = P Q^T with P = [U D, -V D] and Q = [V, U].
        q = torch.cat([field.v, field.u], dim=1)
        scale = torch.cat([gates, -gates], dim=1)
        p_basis = torch.cat([field.u, field.v], dim=1)
        y = x + h / 2 * (scale * (x @ q)) @ p_basis.T
        # (I - h/2 P Q^T)^-1 y = y + h/2 P (I - h/2 Q^T P)^-1 Q^T y.
        small = torch.eye(q.shape[1], dtype=x.dtype, device=x.device) - h / 2 * (
            (q.T @ p_basis) * scale[:, None, :]
        )
        solved = torch.linalg.solve(small, (y @ q)[..., None]).squeeze(-1)
        stepped: Tensor = y + h / 2 * (scale * solved) @ p_basis.T
        return stepped

    def lipschitz_bound(self) -> float:
        """Return bound_within(max_norm); infinite where max_norm is."""
        return self.bound_within(self.max_norm)

    def bound_within(self, max_norm: float) -> float:
        """Return 1 + h R Lip(S) (1 + h / 2 Lip(f)) for |x| <= R, with Lip(S) = 2 |U| |V| |W|.

        The Cayley map of a skew argument is orthogonal and 1-Lipschitz in it, and |S| <= 2 |U||V|;
        Lip(f) <= |S| + R Lip(S).
        """
        h, uv = abs(self.step_size), gram_iteration(self.field.u) * gram_iteration(self.field.v)
        lip_s = 2 * uv * gram_iteration(self.field.weight)
        lip_f = 2 * uv + max_norm * lip_s
        return (1 + h * max_norm * lip_s * (1 + h / 2 * lip_f)) * (1 + 1e-12)
