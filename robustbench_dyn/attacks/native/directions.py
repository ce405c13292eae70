"""Directions of length 1 from gradients of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def unit_l2(x: Tensor) -> Tensor:
    """Return x / |x|_2 for each row of x (rows, ...); rows of zeros stay as they are.

    Divided by its largest entry first, so that no square under- or overflows.
    """
    ends = (len(x), *[1] * (x.dim() - 1))
    largest = x.flatten(1).abs().amax(dim=1).reshape(ends)
    scaled = x / largest.where(largest > 0, 1)
    # Between 1 and the root of the dimension, or 0.
    return scaled / scaled.flatten(1).norm(dim=1).clamp_min(1).reshape(ends)
