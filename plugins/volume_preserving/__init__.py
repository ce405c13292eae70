"""Volume-preserving flows q' = f(p), p' = g(q), in shears, whose Jacobians have determinant 1."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import Classifier, ShearStep, two_scales
from robustbench_dyn.properties import Invertible, Property, VolumePreserving


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    depth: int = 3,
    step_size: float = 0.5,
) -> nn.Module:
    """Build two scales of `depth` steps; f and g are two convolutions with ReLU between them."""

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        def field() -> nn.Module:
            padding = kernel_size // 2
            return nn.Sequential(
                nn.Conv2d(width // 2, width, kernel_size, padding=padding),
                nn.ReLU(),
                nn.Conv2d(width, width // 2, kernel_size, padding=padding),
            )

        return [ShearStep(field(), field(), step_size=step_size) for _ in range(depth)]

    layers, features = two_scales(input_shape, channels, steps)
    return Classifier(nn.Sequential(*layers), nn.Linear(features, n_classes))


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim that each step is volume-preserving and invertible."""
    for name, module in model.named_modules():
        if isinstance(module, ShearStep):
            yield VolumePreserving(name)
            yield Invertible(name)
