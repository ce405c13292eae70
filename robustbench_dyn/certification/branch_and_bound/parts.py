"""Parts of the boxes around balls, which a search over the input cuts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.threat_models import distance


class Parts(NamedTuple):
    """Parts of boxes, each of one example's.

    lower, upper: (parts, inputs). left: (parts, objectives of an example) bool, which are unproved.
    example: (parts,).
    """

    lower: Tensor
    upper: Tensor
    left: Tensor
    example: Tensor

    def at(self, rows: Tensor | slice) -> Parts:
        """Return some of the parts."""
        return Parts(*(part[rows] for part in self))


def cut(parts: Parts, times: int) -> Parts:
    """Halve each part so many times across its longest side."""
    for _ in range(times):
        longest = (parts.upper - parts.lower).argmax(dim=1, keepdim=True)
        low, high = parts.lower.gather(1, longest), parts.upper.gather(1, longest)
        middle = (low + high) / 2
        twice = Parts(*(torch.cat([part, part]) for part in parts))
        parts = twice._replace(
            lower=torch.cat([parts.lower, parts.lower.scatter(1, longest, middle)]),
            upper=torch.cat([parts.upper.scatter(1, longest, middle), parts.upper]),
        )
    return parts


def inside(parts: Parts, ball: Ball) -> Tensor:
    """Say which parts have a point in their example's ball, (parts,) bool."""
    centre = ball.centre[parts.example]
    away = torch.maximum(parts.lower - centre, centre - parts.upper).clamp_min(0)
    # The distance errs by less than a share of 1e-12.
    return ~(distance(away, torch.zeros_like(away), ball.norm) * (1 - 1e-12) > ball.eps)
