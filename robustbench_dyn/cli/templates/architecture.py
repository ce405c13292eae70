"""Architecture "example": explicit Euler steps of x' = relu(A x + b), then a linear head."""

import math

from torch import Tensor, nn


class Step(nn.Module):
    """x + h relu(A x + b); x: (batch, features)."""

    def __init__(self, features: int, step_size: float) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(features, features), nn.ReLU())
        self.step_size = step_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the next state."""
        return x + self.step_size * self.field(x)


def build(
    input_shape: tuple[int, ...], n_classes: int, *, depth: int = 2, step_size: float = 0.5
) -> nn.Module:
    """Map (batch, C, H, W) in [0, 1] to logits, (batch, classes)."""
    features = math.prod(input_shape)
    steps = [Step(features, step_size) for _ in range(depth)]
    return nn.Sequential(nn.Flatten(), *steps, nn.Linear(features, n_classes))
