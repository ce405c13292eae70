"""Quantities that a flow keeps or lets fall: mass, norm, energy; states where it stands still."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_dyn.properties.base import ROUNDING, Property, relative


@dataclass(frozen=True)
class _Kept(Property):
    """A quantity that is kept: exactly, or, with an order p, up to O(h^p).

    With an order the part must have `refined(factor)`, the same flow in smaller steps; the claim is
    then that the error falls by 2^p where the step is halved. The defect is p less the order seen.
    """

    order: int | None = None

    def quantity(self, x: Tensor) -> Tensor:
        """Return the quantity of each state, (batch,)."""
        raise NotImplementedError

    def scale(self, x: Tensor) -> Tensor:
        """Return what an error of the quantity is measured against, (batch,)."""
        return self.quantity(x).abs().clamp_min(torch.finfo(x.dtype).tiny)

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        if self.order is None:
            return self._error(part, x)
        coarse, fine = self._error(_refined(part, 2), x), self._error(_refined(part, 4), x)
        # What is at rounding level has no order to be seen.
        kept = fine <= ROUNDING
        return torch.where(kept, 0.0, self.order - torch.log2(coarse / fine))

    def tolerance(self, part: nn.Module) -> float:
        # The next term of the error's expansion hides some of the order.
        return ROUNDING if self.order is None else 0.5

    def searchable(self, part: nn.Module) -> bool:
        # A search would find the points where the error's leading term happens to vanish.
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
class MassPreserving(_Kept):
    """The sum of the state is kept; relative to the sum of the absolute values."""

    name: ClassVar[str] = "mass-preserving"

    def quantity(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(dim=1)

    def scale(self, x: Tensor) -> Tensor:
        return x.flatten(1).abs().sum(dim=1).clamp_min(torch.finfo(x.dtype).tiny)


@dataclass(frozen=True)
class NormPreserving(_Kept):
    """The L2 norm of the state is kept, relative to itself."""

    name: ClassVar[str] = "norm-preserving"

    def quantity(self, x: Tensor) -> Tensor:
        return x.flatten(1).norm(dim=1)


@dataclass(frozen=True)
class SimplexPreserving(Property):
    """A state without negative entries has none afterwards; with its mass kept, the simplex is."""

    name: ClassVar[str] = "simplex-preserving"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        return (-part(x).flatten(1).amin(dim=1)).clamp_min(0)

    def admit(self, x: Tensor) -> Tensor:
        return x.clamp_min(0)


@dataclass(frozen=True)
class EnergyDecreasing(Property):
    """V never rises from one step to the next: the part has `energy(x)`, (batch,).

    Its `trajectory(x)`, where it has one, yields the states after each step. The defect is the
    largest rise, relative to 1 + abs(V).
    """

    name: ClassVar[str] = "energy-decreasing"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        flow: Any = part
        states = flow.trajectory(x) if hasattr(flow, "trajectory") else [flow(x)]
        before, rise = flow.energy(x), x.new_zeros(len(x))
        for state in states:
            after = flow.energy(state)
            rise = torch.maximum(rise, (after - before) / (1 + before.abs()))
            before = after
        return rise


@dataclass(frozen=True)
class EquilibriumPreserving(Property):
    """The origin is an equilibrium of the field, and the step leaves it where it is.

    The defect is how far 0 moves. Every Runge-Kutta method keeps every equilibrium.
    """

    name: ClassVar[str] = "equilibrium-preserving"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        origin = torch.zeros_like(x)
        return (part(origin) - origin).flatten(1).norm(dim=1) / math.sqrt(max(1, x[0].numel()))


@dataclass(frozen=True)
class Invertible(Property):
    """`part.inverse` undoes the part, and the other way round, relative to the state."""

    name: ClassVar[str] = "invertible"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        flow: Any = part
        there = relative(flow.inverse(flow(x)) - x, x)
        return torch.maximum(there, relative(flow(flow.inverse(x)) - x, x))
