"""Gradient flows x' = -grad V(x): the energy V, convex or not, decreases along the steps."""

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
    """Build two scales of `depth` potentials with `n_steps` gradient steps each.

    convex: potentials sum_i relu(.)^2 / 2, which are convex, or else sum_i -cos(.), which are not.
    unit_rows: the rows of the head have norm one, so that a margin is a distance.
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
    """Claim that each potential decreases, and that steps of convex ones are nonexpansive."""
    for name, module in model.named_modules():
        if isinstance(module, ConvGradientStep):
            yield EnergyDecreasing(name)
            if module.activation.min_slope >= 0:
                yield Nonexpansive(name)
