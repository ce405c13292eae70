"""A flow that ends where the classifier says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_dyn.properties.base import Property


@dataclass(frozen=True)
class Attracting(Property):
    """The flow of a head ends in the basin of the class that the head names.

    The head has `trajectory(x)`, which yields the states, and `into_basin(x)`, which moves inputs
    to where theory says so: not on a border, where the flow may stay between two classes. The
    defect is by how much a logit of another class exceeds that of the class named at the start, at
    any state of the trajectory.
    """

    name: ClassVar[str] = "attracting"

    def defects(self, part: nn.Module, x: Tensor) -> Tensor:
        return self.objective(part, x).clamp_min(0)

    def objective(self, part: nn.Module, x: Tensor) -> Tensor:
        head: Any = part
        start = head.into_basin(x)
        named = part(start).argmax(dim=1, keepdim=True)
        excess = [self._excess(part, state, named) for state in head.trajectory(start)]
        return torch.stack(excess).amax(dim=0)

    @staticmethod
    def _excess(part: nn.Module, state: Tensor, named: Tensor) -> Tensor:
        logits = part(state)
        others = logits.scatter(1, named, -torch.inf).amax(dim=1)
        return others - logits.gather(1, named)[:, 0]
