"""Which examples and competing classes a proof is about, and what of them it has shown."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.bounds.intermediate import Relaxed
from robustbench_dyn.certification.bounds.intervals import Bounds
from robustbench_dyn.certification.rounding.allowance import (
    allowed_for,
    believed,
    margins_of,
    point_of,
    seen_differences,
    usual_rounding,
)
from robustbench_dyn.threat_models import ThreatModel


class Pairs(NamedTuple):
    """Rows (example, competing class) of those examples that are classified as their label.

    differences: (n, classes), e_label - e_other, float64; example, rival: (n,), on the inputs'
    device. margin: (n,), the difference as the network computed it; seen: (n,), the largest
    difference between it and exact arithmetic that was seen; possible: (n,), what its rounding may
    be at most, anywhere in the ball; usual: (n,), of rounding.usual_rounding.
    """

    differences: Tensor
    example: Tensor
    rival: Tensor
    margin: Tensor
    seen: Tensor
    possible: Tensor
    usual: Tensor

    def at(self, rows: Tensor) -> Pairs:
        """Return some of the rows, by a mask or by indices."""
        return Pairs(*(part[rows] for part in self))

    def allowed(self, worst: Tensor, *, strict: bool = True) -> Tensor:
        """Return what a proven difference must exceed, (n,); worst: (n,), of its rounding."""
        return allowed_for(self.margin, worst, self.seen, self.usual, strict=strict)


def pairs_to_prove(x: Tensor, logits: Tensor, y: Tensor) -> Pairs:
    """Return the pairs of all examples that are classified as y; logits as the model gave them.

    Of their rounding nothing is known yet, so that nothing of them can be proved.
    """
    margins = margins_of(logits, y)
    others = torch.ones_like(margins, dtype=torch.bool).scatter(1, y.cpu()[:, None], False)
    # Written so that NaN fails it.
    wins = ((margins > 0) | ~others).all(dim=1)
    example, rival = (others & wins[:, None]).nonzero(as_tuple=True)
    units = torch.eye(margins.shape[1], dtype=torch.float64)
    differences = units[y.cpu()[example]] - units[rival]
    margin = margins[example, rival]
    unknown = torch.full_like(margin, torch.inf)
    usual = usual_rounding(logits)[example, 0]
    parts = (differences, example, rival, margin, unknown, unknown, usual)
    return Pairs(*(part.to(x.device) for part in parts))


def compared(
    pairs: Pairs, relaxed: Relaxed, bounds: Bounds, x: Tensor, logits: Tensor, y: Tensor,
    threat_model: ThreatModel,
) -> Pairs:  # fmt: skip
    """Return pairs with what is seen of their rounding, and what it may be at most.

    The recorded network is compared with the model at the examples and at points of their balls;
    what differs there by more than rounding can make is not to be proved. bounds: over the balls;
    all else as in pairs_to_prove.
    """
    if not len(pairs.example):
        return pairs
    rows, owner = torch.unique(pairs.example, return_inverse=True)
    radius = torch.full((len(rows),), threat_model.eps, dtype=torch.float64)
    points = point_of(x[rows], radius, threat_model.norm)
    here, there = (relaxed.exact.values(at.double())[-1] for at in (x[rows], points))
    seen = seen_differences(relaxed.model, points, logits[rows], (here, there), y[rows])
    seen = seen.to(x.device)[owner, pairs.rival]
    errors = bounds.errors[-1][pairs.example]
    own = errors.gather(1, y.to(errors.device)[pairs.example, None])[:, 0]
    possible = own + errors.gather(1, pairs.rival[:, None])[:, 0]
    return pairs._replace(seen=believed(seen, possible), possible=possible)


def examples_among(rows: Tensor, pairs: Pairs, n: int) -> Tensor:
    """Say which of n examples have a pair among some rows, (n,) bool, on the CPU."""
    return torch.zeros(n, dtype=torch.bool).index_fill(0, pairs.example[rows].cpu(), True)


def radii_of(proved: Pairs, logits: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return (batch, classes) float64 on the CPU: eps for the pairs, inf for labels, else 0."""
    radii = torch.zeros(logits.shape, dtype=torch.float64)
    radii[proved.example.cpu(), proved.rival.cpu()] = eps
    return radii.scatter(1, y.cpu()[:, None], torch.inf)
