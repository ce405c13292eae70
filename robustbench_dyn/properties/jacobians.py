"""Properties of the Jacobian: symplectic, volume-preserving, Lipschitz; by Jacobian products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vjp

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.lipschitz.bounds import lipschitz_bound
from robustbench_dyn.properties.base import ROUNDING, Property

_PAIRS = 8
# A determinant needs the whole Jacobian: 4096 x 4096 in float64 is 128 MiB.
_LARGEST_JACOBIAN = 4096
# The derivative of a determinant costs many Jacobians.
_SEARCHED_WHOLE = 256
_POWER_ITERATIONS = 20
_SEARCH_ITERATIONS = 5
_LOGARITHMIC_ITERATIONS = 50
# The step across which a search takes its slope, as a share of the state's norm.
_REACH = 0.05


@dataclass(frozen=True)
class Symplectic(Property):
    """J^T Omega J = Omega, the halves of the channels being q and p.

    The defect is abs(omega(J u, J v) - omega(u, v)) for unit u, v drawn at random, over
    1 + |J u| |J v|, at most over a few pairs.
    """

    name: ClassVar[str] = "symplectic"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        worst = x.new_zeros(len(x))
        generator = torch.Generator().manual_seed(0)
        for _ in range(_PAIRS):
            u, v = _unit(x, generator), _unit(x, generator)
            ju, jv = jvp(part, (x,), (u,))[1], jvp(part, (x,), (v,))[1]
            size = 1 + ju.flatten(1).norm(dim=1) * jv.flatten(1).norm(dim=1)
            worst = torch.maximum(worst, (_omega(ju, jv) - _omega(u, v)).abs() / size)
        return worst


def _omega(u: Tensor, v: Tensor) -> Tensor:
    """Return the canonical symplectic form, sum_i (u_q)_i (v_p)_i - (u_p)_i (v_q)_i, (batch,)."""
    (uq, up), (vq, vp) = u.chunk(2, dim=1), v.chunk(2, dim=1)
    return (uq * vp - up * vq).flatten(1).sum(dim=1)


@dataclass(frozen=True)
class VolumePreserving(Property):
    """abs(det J) = 1; the defect is abs(log abs(det J)) over the number of dimensions.

    A search in many dimensions maximises abs(trace(J - I)), the first term of log det J, estimated
    by Jacobian products (Hutchinson); where it ends, the whole Jacobian is computed. Raises
    ValueError for states of more dimensions than a Jacobian may have.
    """

    name: ClassVar[str] = "volume-preserving"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        n = x[0].numel()
        if n > _LARGEST_JACOBIAN:
            raise ValueError(f"a state of {n} dimensions is too large for a determinant")

        def flat(state: Tensor) -> Tensor:
            out: Tensor = part(state.reshape(1, *x.shape[1:]))
            return out.flatten()

        jacobians = [jacrev(flat, chunk_size=256)(state) for state in x.flatten(1)]
        return torch.stack([torch.linalg.slogdet(j).logabsdet.abs() / n for j in jacobians])

    def objective(self, part: nn.Module, x: Tensor) -> Tensor:
        if x[0].numel() <= _SEARCHED_WHOLE:
            return self.defects(part, x)
        trace, generator = x.new_zeros(len(x)), torch.Generator().manual_seed(0)
        for _ in range(_PAIRS):
            u = _unit(x, generator)
            trace = trace + (u * (jvp(part, (x,), (u,))[1] - u)).flatten(1).sum(dim=1) / _PAIRS
        return trace.abs()


@dataclass(frozen=True)
class Lipschitz(Property):
    """|f(x) - f(x')| <= L |x - x'| in L2; L is `bound`, or what lipschitz_bound(part) says.

    The defect is the local operator norm over L, less 1. Power iteration bounds the norm from
    below, so that it may refute L and never proves it.
    """

    name: ClassVar[str] = "lipschitz"
    bound: float | None = None

    def upper(self, part: nn.Module) -> float:
        """Return L."""
        return lipschitz_bound(part) if self.bound is None else self.bound

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        return operator_norms(part, x) / self.upper(part) - 1

    def objective(self, part: nn.Module, x: Tensor) -> Tensor:
        """Return the slope across a finite step along the most expanding direction at x.

        Where activations are piecewise linear so is the part, and the norm of its Jacobian has a
        gradient of 0; this slope has a useful one.
        """
        direction = _most_expanding(part, x, _SEARCH_ITERATIONS)
        reach = _REACH * x.detach().flatten(1).norm(dim=1).clamp_min(1e-3)
        ends = direction * reach.reshape(-1, *[1] * (x.dim() - 1))
        moved: Tensor = (part(x + ends) - part(x - ends)).flatten(1).norm(dim=1)
        return moved / (2 * reach)

    def note(self, part: nn.Module, x: Tensor, defects: Tensor) -> str:
        upper = self.upper(part)
        lower = float(1 + defects.max()) * upper
        return f"steepest {lower:.4g} of at most {upper:.4g}: ratio {lower / upper:.3f}"


@dataclass(frozen=True)
class Nonexpansive(Lipschitz):
    """|f(x) - f(x')| <= |x - x'| in L2, up to the rounding of float32 weights."""

    name: ClassVar[str] = "nonexpansive"
    bound: float | None = 1.0

    def tolerance(self, part: nn.Module) -> float:
        """Return the excess of the certified bound over 1, which must be small."""
        try:
            excess = lipschitz_bound(part) - 1
        except CertificateError:
            return ROUNDING
        return max(excess, ROUNDING) if excess < 1e-2 else ROUNDING


@dataclass(frozen=True)
class LogarithmicNorm(Property):
    """The logarithmic norm of a field's Jacobian, the largest eigenvalue of its symmetric part.

    It is at most `bound`, so that two solutions of x' = f(x) part by no more than exp(bound t). The
    part must have `field(x)`. The defect is the logarithmic norm less the bound, found by power
    iteration, from below.
    """

    name: ClassVar[str] = "logarithmic-norm"
    bound: float = 0.0

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        flow: Any = part
        return logarithmic_norms(flow.field, x) - self.bound

    def tolerance(self, part: nn.Module) -> float:
        # The Jacobians of what ships have norms of order one; weights are rounded to float32.
        return 1e-6

    def note(self, part: nn.Module, x: Tensor, defects: Tensor) -> str:
        return f"largest {float(defects.max()) + self.bound:.4g} of at most {self.bound:.4g}"


def logarithmic_norms(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return lower bounds on the logarithmic norms of the Jacobians at x, (batch,), with a graph.

    Power iteration on the symmetric part, shifted by the Jacobian's norm so that the largest
    eigenvalue is the one of largest modulus, ends in a Rayleigh quotient.
    """
    with torch.no_grad():
        shift = 1e-3 + operator_norms(field, x).reshape(-1, *[1] * (x.dim() - 1))
        v = _unit(x, torch.Generator().manual_seed(0))
        forward, transposed = _jacobian_products(field, x)
        for _ in range(_LOGARITHMIC_ITERATIONS):
            image = forward(v) + transposed(v)
            v = _normalised(image / 2 + shift * v)
    rayleigh: Tensor = (v * jvp(field, (x,), (v,))[1]).flatten(1).sum(dim=1)
    return rayleigh


def operator_norms(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return lower bounds on the spectral norms of the Jacobians at x, (batch,), with a graph.

    Power iteration on J^T J; the last product is differentiable in x. The examples of a batch are
    taken to be independent of each other.
    """
    stretched: Tensor = jvp(part, (x,), (_most_expanding(part, x, _POWER_ITERATIONS),))[1]
    return stretched.flatten(1).norm(dim=1)


@torch.no_grad()
def _most_expanding(part: Callable[[Tensor], Tensor], x: Tensor, iterations: int) -> Tensor:
    v = _unit(x, torch.Generator().manual_seed(0))
    forward, transposed = _jacobian_products(part, x)
    for _ in range(iterations):
        v = _normalised(transposed(forward(v)))
    return v


def _jacobian_products(
    part: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return v -> J v and u -> J^T u for the Jacobian J at x; part is evaluated once for all.

    J v is the transpose of u -> J^T u: forward differentiation would evaluate part for each v, and
    its zero tangents go through torch's slow kernels in Python.
    """
    y, transposed = vjp(part, x)[:2]
    forward = vjp(lambda u: transposed(u)[0], y)[1]
    return lambda v: forward(v)[0], lambda u: transposed(u)[0]


def _unit(x: Tensor, generator: torch.Generator) -> Tensor:
    return _normalised(torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device))


def _normalised(v: Tensor) -> Tensor:
    size = v.flatten(1).norm(dim=1).clamp_min(torch.finfo(v.dtype).tiny)
    return v / size.reshape(-1, *[1] * (v.dim() - 1))
