"""Quantities that a flow conserves or dissipates, equilibria that it keeps, its inverse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_dyn.properties.base import ROUNDING, Property, relative


@dataclass(frozen=True)
class _Conserved(Property):
    """A conserved quantity: exactly, or, with an order p, up to O(h^p).

    With an order the part must have `refined(factor)`, the same flow in smaller steps; the claim is
    then that the error falls by 2^p where the step is halved. The defect is p less the order that
    is observed.
    """

    order: int | None = None

    def quantity(self, x: Tensor) -> Tensor:
        """Return the quantity of each state, (batch,)."""
        raise NotImplementedError

    def scale(self, x: Tensor) -> Tensor:
        """Return the scale of the quantity's error, (batch,)."""
        return self.quantity(x).abs().clamp_min(torch.finfo(x.dtype).tiny)

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        if self.order is None:
            return self._error(part, x)
        coarse, fine = self._error(_refined(part, 2), x), self._error(_refined(part, 4), x)
        # Errors at rounding level show no order.
        kept = fine <= ROUNDING
        return torch.where(kept, 0.0, self.order - torch.log2(coarse / fine))

    def tolerance(self, part: nn.Module) -> float:
        # The next term of the error's expansion changes the observed order.
        return ROUNDING if self.order is None else 0.5

    def searchable(self, part: nn.Module) -> bool:
        # A search would find points where the leading term of the error vanishes.
        return self.order is None

    def note(self, part: nn.Module, x: Tensor, defects: Tensor) -> str:
        if self.order is None:
            return ""
        seen = self.order - float(defects.median())
        return f"error {float(self._error(part, x).max()):.1e}, order {seen:.2f} of {self.order}"

    def _error(self, part: nn.Module, x: Tensor) -> Tensor:
        return (self.quantity(part(x)) - self.quantity(x)).abs() / self.scale(x)


def _refined(part: Any, factor: int) -> nn.Module:
    refined: nn.Module = part.refined(factor)
    return refined


@dataclass(frozen=True)
class MassPreserving(_Conserved):
    """The sum of the state is conserved; relative to the sum of the absolute values."""

    name: ClassVar[str] = "mass-preserving"

    def quantity(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(dim=1)

    def scale(self, x: Tensor) -> Tensor:
        return x.flatten(1).abs().sum(dim=1).clamp_min(torch.finfo(x.dtype).tiny)


@dataclass(frozen=True)
class NormPreserving(_Conserved):
    """The L2 norm of the state is conserved; relative to itself."""

    name: ClassVar[str] = "norm-preserving"

    def quantity(self, x: Tensor) -> Tensor:
        return x.flatten(1).norm(dim=1)


@dataclass(frozen=True)
class SimplexPreserving(Property):
    """A nonnegative state stays nonnegative; with its mass conserved, it stays in the simplex."""

    name: ClassVar[str] = "simplex-preserving"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        return (-part(x).flatten(1).amin(dim=1)).clamp_min(0)

    def project_to_domain(self, x: Tensor) -> Tensor:
        return x.clamp_min(0)


@dataclass(frozen=True)
class EnergyDecreasing(Property):
    """The energy V does not increase in any step: the part has `energy(x)`, (batch,).

    Its `trajectory(x)`, where it has one, yields the states after each step. The defect is the
    largest increase, relative to 1 + abs(V).
    """

    name: ClassVar[str] = "energy-decreasing"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        flow: Any = part
        states = flow.trajectory(x) if hasattr(flow, "trajectory") else [flow(x)]
        before, increase = flow.energy(x), x.new_zeros(len(x))
        for state in states:
            after = flow.energy(state)
            increase = torch.maximum(increase, (after - before) / (1 + before.abs()))
            before = after
        return increase


@dataclass(frozen=True)
class EquilibriumPreserving(Property):
    """The origin is an equilibrium of the field, and of the numerical step.

    The defect is how far 0 moves. Every Runge-Kutta method keeps every equilibrium.
    """

    name: ClassVar[str] = "equilibrium-preserving"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        origin = torch.zeros_like(x)
        return (part(origin) - origin).flatten(1).norm(dim=1) / math.sqrt(max(1, x[0].numel()))


@dataclass(frozen=True)
class AtEquilibrium(Property):
    """The output is an equilibrium, up to the error that the part states for its solver.

    The part has `refined(factor)`, the same solver with that many times as many iterations,
    `first(x)`, its first iterate, and `solver_error()`: a bound of the distance from the
    equilibrium over the norm of that iterate. The defect is this distance, with four times as many
    iterations in place of the equilibrium.
    """

    name: ClassVar[str] = "at-equilibrium"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        solver: Any = part
        return relative(solver(x) - solver.refined(4)(x), solver.first(x))

    def tolerance(self, part: nn.Module) -> float:
        solver: Any = part
        # The reference has an error of its own.
        return 2.0 * float(solver.solver_error()) + ROUNDING


@dataclass(frozen=True)
class Invertible(Property):
    """`part.inverse` is the inverse of the part on both sides, relative to the state."""

    name: ClassVar[str] = "invertible"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        flow: Any = part
        backwards = relative(flow.inverse(flow(x)) - x, x)
        return torch.maximum(backwards, relative(flow(flow.inverse(x)) - x, x))
