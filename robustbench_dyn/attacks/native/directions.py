"""Steepest directions of a norm, and lengths in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.threat_models import Norm

_ORDER = {"L2": 2.0, "Linf": torch.inf, "L1": 1.0}


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the direction of steepest ascent of length 1 in Linf or L2; L1 takes that of L2."""
    return gradient.sign() if norm == "Linf" else unit_l2(gradient)


def unit_l2(x: Tensor) -> Tensor:
    """Return x / |x|_2 for each row of x (rows, ...); rows of zeros stay as they are.

    Divided by its largest entry first, so that no square under- or overflows.
    """
    ends = (len(x), *[1] * (x.dim() - 1))
    largest = x.flatten(1).abs().amax(dim=1).reshape(ends)
    scaled = x / largest.where(largest > 0, 1)
    # Between 1 and the root of the dimension, or 0.
    return scaled / scaled.flatten(1).norm(dim=1).clamp_min(1).reshape(ends)


def lengths(delta: Tensor, norm: Norm) -> Tensor:
    """Return the norm of each row of delta (rows, ...), (rows,)."""
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), _ORDER[norm], dim=1)
    return size
