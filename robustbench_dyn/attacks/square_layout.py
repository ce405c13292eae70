"""Narrow inputs laid out as square images, for attacks that move squares over images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem

# Square starts in L2 and L1 from tiles of a fifth of the side.
SMALLEST_SIDE = 5


def to_squares(problem: AttackProblem) -> AttackProblem:
    """Lay the pixels of narrow images out as squares, padded with zeros that the model drops.

    Images whose sides are both at least 5 pixels stay as they are.
    """
    shape = problem.x.shape[1:]
    if min(shape[1:]) >= SMALLEST_SIDE:
        return problem
    model, n_pixels = problem.model, shape[1] * shape[2]
    side = max(SMALLEST_SIDE, math.isqrt(n_pixels - 1) + 1)

    class FromSquares(nn.Module):
        """The model on the images that are laid out as squares."""

        def forward(self, squares: Tensor) -> Tensor:
            logits: Tensor = model(from_squares(squares, shape))
            return logits

    padded = F.pad(problem.x.flatten(2), (0, side * side - n_pixels))
    squares = padded.reshape(len(padded), shape[0], side, side)
    return problem._replace(model=FromSquares().eval(), x=squares)


def from_squares(squares: Tensor, shape: torch.Size) -> Tensor:
    """Return images that are laid out as (n, C, side, side) in their own shape (C, H, W)."""
    n_pixels = shape[1] * shape[2]
    return squares.flatten(2)[:, :, :n_pixels].reshape(len(squares), *shape)
