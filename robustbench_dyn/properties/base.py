"""A property of a part of a network: a defect that must not exceed a tolerance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

# Rounding error of an exact identity in float64, relative to the numbers in it: 2^12 units in the
# last place, for sums over thousands of terms and compositions of tens of operations.
ROUNDING = 2.0**-40


@dataclass(frozen=True)
class Property(ABC):
    """A claim about a part of a network, in eval mode and float64.

    part: the part's name as in named_modules(); "" is the whole network. The defect of an input is
    a number that the theory bounds by the tolerance.
    """

    part: str = ""
    name: ClassVar[str] = ""

    @abstractmethod
    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        """Return the defect at each input, (batch,); x: (batch, *shape of the part's input)."""

    def tolerance(self, part: nn.Module) -> float:
        """Return the largest defect that the theory allows; by default, rounding alone."""
        del part
        return ROUNDING

    def project_to_domain(self, x: Tensor) -> Tensor:
        """Move x to where the property is claimed; everywhere, by default."""
        return x

    def objective(self, part: nn.Module, x: Tensor) -> Tensor:
        """Return what a search for counterexamples maximises, (batch,): the defects, by default."""
        return self.defects(part, x)

    def searchable(self, part: nn.Module) -> bool:
        """Whether gradient ascent on the objective can find a counterexample."""
        return self.tolerance(part) > 0

    def note(self, part: nn.Module, x: Tensor, defects: Tensor) -> str:
        """Return a remark on the defects at x, for the table."""
        del part, x, defects
        return ""


@dataclass(frozen=True)
class Finding:
    """The largest defect of one property at one kind of points, beside its tolerance.

    points: "data", "random" or "searched". witness: the input where it is largest, (1, *shape).
    """

    claim: str
    part: str
    points: str
    defect: float
    tolerance: float
    note: str = ""
    witness: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def holds(self) -> bool:
        """Whether the defect is within the tolerance; NaN is not."""
        return self.defect <= self.tolerance


def relative(difference: Tensor, reference: Tensor) -> Tensor:
    """Return the norm of each difference over that of its reference, (batch,)."""
    size = reference.flatten(1).norm(dim=1).clamp_min(torch.finfo(reference.dtype).tiny)
    return difference.flatten(1).norm(dim=1) / size
