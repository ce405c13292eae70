"""A composition of Euler steps of nonexpansive gradient flows, 1-Lipschitz by a rigorous bound."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import (
    Classifier,
    ConvGradientStep,
    OrthonormalGradientStep,
    UnitRowLinear,
    two_scales,
)
from robustbench_dyn.properties import Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 8,
    terms: int = 96,
    depth: int = 3,
    dense_depth: int = 12,
) -> nn.Module:
    """Lift to `channels` at half resolution, flow, halve again, flow, and flow as a vector.

    Between input and head nothing but isometries and gradient steps: no bottleneck loses norm.
    terms: of each dense step's potential. depth: convolutional steps at each of the two scales.
    dense_depth: dense steps.
    """

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        # At the finer scale each pixel has four times as many terms as channels, then twice.
        n_terms = 4 * width if width == channels else 2 * width
        return [ConvGradientStep(width, n_terms, kernel_size=kernel_size) for _ in range(depth)]

    layers, features = two_scales(input_shape, channels, steps)
    terms = min(terms, features)
    layers += [OrthonormalGradientStep(features, terms) for _ in range(dense_depth)]
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that all that stands before the head is nonexpansive."""
    yield Nonexpansive("features")
