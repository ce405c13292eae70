"""Narrow inputs laid out as square images, for attacks that move squares over images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.base import Problem

# Square starts in L2 and L1 from tiles of a fifth of the side.
SMALLEST_SIDE = 5


def fold(problem: Problem) -> Problem:
    """Lay the pixels of narrow images out as squares, with zeros behind that the model drops.

    Images whose sides are both at least 5 pixels stay as they are.
    """
    shape = problem.x.shape[1:]
    if min(shape[1:]) >= SMALLEST_SIDE:
        return problem
    model, n_pixels = problem.model, shape[1] * shape[2]
    side = max(SMALLEST_SIDE, math.isqrt(n_pixels - 1) + 1)

    class Unfolding(nn.Module):
        """The model on what is left of the squares without their padding."""

        def forward(self, squares: Tensor) -> Tensor:
            logits: Tensor = model(unfold(squares, shape))
            return logits

    padded = F.pad(problem.x.flatten(2), (0, side * side - n_pixels))
    squares = padded.reshape(len(padded), shape[0], side, side)
    return problem._replace(model=Unfolding().eval(), x=squares)


def unfold(squares: Tensor, shape: torch.Size) -> Tensor:
    """Return folded images, (n, C, side, side), in their own shape (C, H, W)."""
    n_pixels = shape[1] * shape[2]
    return squares.flatten(2)[:, :, :n_pixels].reshape(len(squares), *shape)
