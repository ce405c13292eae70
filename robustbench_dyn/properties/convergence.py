"""The observed order of convergence of a numerical flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_dyn.properties.base import ROUNDING, Property, relative

# Steps so small that the leading term of the error dominates.
_FACTORS = (16, 32, 64)


@dataclass(frozen=True)
class Convergent(Property):
    """Halving the step divides the global error by 2^order.

    The part must have `refined(factor)`, the same flow in that many times as many steps. Its states
    at steps h, h/2 and h/4 give the order, log2(|x_h - x_h/2| / |x_h/2 - x_h/4|), without the exact
    flow (Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, section II.4). The
    defect is `order` less the observed order.
    """

    name: ClassVar[str] = "convergent"
    order: int = 1

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        return self.order - self._orders(self._states(part, x))

    def tolerance(self, part: nn.Module) -> float:
        # The next term of the error's expansion changes the observed order.
        return 0.5

    def searchable(self, part: nn.Module) -> bool:
        # A search would find points where the leading term of the error vanishes.
        return False

    def note(self, part: nn.Module, x: Tensor, defects: Tensor) -> str:
        del defects
        states, reached = self._states(part, x), part(x)
        error = float(relative(reached - states[-1], reached).max())
        seen = float(self._orders(states).median())
        return f"error {error:.1e}, order {seen:.2f} of {self.order}"

    def _states(self, part: Any, x: Tensor) -> list[Tensor]:
        return [part.refined(factor)(x) for factor in _FACTORS]

    def _orders(self, states: list[Tensor]) -> Tensor:
        coarse, middle, fine = states
        first, second = relative(coarse - middle, fine), relative(middle - fine, fine)
        # Errors at rounding level show no order.
        return torch.where(second <= ROUNDING, float(self.order), torch.log2(first / second))
