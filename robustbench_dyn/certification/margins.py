"""Margins between the label's logit and the others, and what rounding may make of them."""

from __future__ import annotations

import torch
from torch import Tensor

# Stands for the rounding of a forward pass: this many units in the last place of the largest
# logit. Measured differences between float32 and float64 passes are below 40.
_ULPS = 256


def rounding_of(logits: Tensor) -> Tensor:
    """Return what a logit may be away from the exact one, (batch, 1), float64, on the CPU."""
    rounding = _ULPS * torch.finfo(logits.dtype).eps
    scores = logits.detach().double().cpu()
    return rounding * scores.abs().amax(dim=1, keepdim=True).clamp_min(1.0)


def safe_margins(logits: Tensor, y: Tensor) -> Tensor:
    """Return F_y - F_j less rounding for each class j, (batch, classes), float64, on the CPU.

    0 at j = y is less the rounding too; a row whose logits are not finite is NaN.
    """
    scores = logits.detach().double().cpu()
    margins = scores.gather(1, y.cpu()[:, None]) - scores - rounding_of(logits)
    return margins.where(scores.isfinite().all(dim=1, keepdim=True), torch.nan)
