"""Which examples and rival classes a proof is about, and what of them it has shown."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.margins import rounding_of, safe_margins


class Pairs(NamedTuple):
    """Rows (example, rival) of those examples whose label wins by more than rounding.

    differences: (n, classes), e_label - e_rival, float64; example, rival: (n,), on the inputs'
    device. rounding: (n,), what a bound must exceed, so that no rounded forward pass ties.
    """

    differences: Tensor
    example: Tensor
    rival: Tensor
    rounding: Tensor

    def at(self, rows: Tensor) -> Pairs:
        """Return some of the rows, by a mask or by indices."""
        return Pairs(*(part[rows] for part in self))


def pairs_to_prove(x: Tensor, logits: Tensor, y: Tensor) -> Pairs:
    """Return the pairs of all examples that are classified as y; logits as the model gave them."""
    margins = safe_margins(logits, y).to(x.device)
    labels = y.to(x.device)
    rivals = torch.ones_like(margins, dtype=torch.bool).scatter(1, labels[:, None], False)
    # Written so that NaN fails it.
    wins = ((margins > 0) | ~rivals).all(dim=1)
    example, rival = (rivals & wins[:, None]).nonzero(as_tuple=True)
    units = torch.eye(margins.shape[1], dtype=torch.float64, device=x.device)
    rounding = rounding_of(logits).to(x.device)[example, 0]
    return Pairs(units[labels[example]] - units[rival], example, rival, rounding)


def radii_of(proved: Pairs, logits: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return (batch, classes) float64 on the CPU: eps for the pairs, inf for labels, else 0."""
    radii = torch.zeros(logits.shape, dtype=torch.float64)
    radii[proved.example.cpu(), proved.rival.cpu()] = eps
    return radii.scatter(1, y.cpu()[:, None], torch.inf)
