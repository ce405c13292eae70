"""Residual networks: explicit Euler steps of an unconstrained field."""

from __future__ import annotations

from torch import Tensor, nn

from robustbench_dyn.lipschitz.bounds import lipschitz_bound


class EulerStep(nn.Module):
    """x -> x + h f(x), one explicit Euler step of x' = f(x) (arXiv 1705.03341, eq. 2.2)."""

    def __init__(self, field: nn.Module, *, step_size: float = 1.0) -> None:
        super().__init__()
        self.field = field
        self.step_size = step_size

    def forward(self, x: Tensor) -> Tensor:
        """Return x + h f(x); the field keeps the shape of x."""
        velocity: Tensor = self.field(x)
        return x + self.step_size * velocity

    def lipschitz_bound(self) -> float:
        """Return 1 + h Lip(f): valid for any field, and vacuous for deep networks."""
        return 1.0 + abs(self.step_size) * lipschitz_bound(self.field)


def residual_features(
    input_shape: tuple[int, int, int], *, channels: int, depth: int, step_size: float
) -> tuple[list[nn.Module], int]:
    """Return the layers of a plain residual network before its head, and the number of features.

    Images, with H and W divisible by 4: two scales of `depth` Euler steps. Points, with H = W = 1:
    one scale. The field of each step is B relu(A x + b), the classical residual block. Raises
    ValueError for other shapes.
    """
    in_channels, height, width = input_shape

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        def conv() -> nn.Module:
            return nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2)

        fields = [nn.Sequential(conv(), nn.ReLU(), conv()) for _ in range(depth)]
        return [EulerStep(field, step_size=step_size) for field in fields]

    if height == width == 1:
        lift = nn.Conv2d(in_channels, channels, 1)
        return [lift, *steps(channels, 1), nn.ReLU(), nn.Flatten()], channels
    if height % 4 or width % 4:
        raise ValueError(f"inputs {input_shape} need height and width divisible by 4")
    layers = [nn.PixelUnshuffle(2), nn.Conv2d(4 * in_channels, channels, 3, padding=1)]
    layers += [*steps(channels, 3), nn.ReLU(), nn.PixelUnshuffle(2)]
    layers += [nn.Conv2d(4 * channels, 4 * channels, 3, padding=1)]
    layers += [*steps(4 * channels, 3), nn.ReLU(), nn.Flatten()]
    layers += [nn.Linear(channels * height * width // 4, 64), nn.ReLU()]
    return layers, 64
