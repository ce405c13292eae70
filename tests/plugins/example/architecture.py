"""A small network whose activation is bounded only with the plugin's own operation."""

import math

from torch import Tensor, atan, nn


class Squash(nn.Module):
    """The arctangent, with a Lipschitz bound of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return atan(x)

    def lipschitz_bound(self) -> float:
        return 1.0


def build(input_shape: tuple[int, ...], n_classes: int, *, width: int = 8) -> nn.Module:
    """Map (batch, C, H, W) in [0, 1] to logits, (batch, classes)."""
    hidden = nn.Linear(math.prod(input_shape), width)
    return nn.Sequential(nn.Flatten(), hidden, Squash(), nn.Linear(width, n_classes))
