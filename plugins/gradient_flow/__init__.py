"""x' = -grad V(x): the energy V decreases along the steps, and V need not be convex."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import Classifier, ConvGradientStep, UnitRowLinear, two_scales
from robustbench_dyn.properties import EnergyDecreasing, Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    depth: int = 2,
    n_steps: int = 2,
    convex: bool = True,
    unit_rows: bool = False,
) -> nn.Module:
    """Build scales of `depth` potentials, down each of which go `n_steps` steps.

    convex: potentials sum_i relu(.)^2 / 2 (convex), or sum_i -cos (not).
    unit_rows: the head's rows have norm one, so that a margin is a distance; else they are free.
    """
    activation = "relu" if convex else "sin"

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        return [
            ConvGradientStep(
                width, 2 * width, kernel_size=kernel_size, activation=activation, n_steps=n_steps
            )
            for _ in range(depth)
        ]

    layers, features = two_scales(input_shape, channels, steps)
    head = UnitRowLinear if unit_rows else nn.Linear
    return Classifier(nn.Sequential(*layers), head(features, n_classes))


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim that each potential decreases, and that convex ones make nonexpansive steps."""
    for name, module in model.named_modules():
        if isinstance(module, ConvGradientStep):
            yield EnergyDecreasing(name)
            if module.activation.min_slope >= 0:
                yield Nonexpansive(name)
