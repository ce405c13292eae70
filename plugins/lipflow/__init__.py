"""Euler steps of nonexpansive gradient flows; the network is 1-Lipschitz by a rigorous bound."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import (
    Classifier,
    ConvGradientStep,
    OrthonormalGradientStep,
    Prototypes,
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
    prototypes: int = 0,
    start_bias: float = 0.0,
) -> nn.Module:
    """Build convolutional gradient steps at half and quarter resolution, then dense ones.

    All layers before the head are isometries and gradient steps, so that no bottleneck loses norm.
    channels: at half resolution. terms: number of terms (hidden units) of each dense potential.
    depth: convolutional steps per scale. dense_depth: dense steps. prototypes: number of prototypes
    a class in the head, points among the features; 0 for a linear head. start_bias: of the
    convolutional steps before training; a negative one makes them near the identity.
    """

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        # Terms per channel: four at the finer scale, two at the coarser one.
        n_terms = 4 * width if width == channels else 2 * width
        return [ConvGradientStep(width, n_terms, kernel_size=kernel_size) for _ in range(depth)]

    layers, features = two_scales(input_shape, channels, steps)
    for layer in layers:
        if start_bias and isinstance(layer, ConvGradientStep):
            nn.init.constant_(layer.bias, start_bias)
    terms = min(terms, features)
    layers += [OrthonormalGradientStep(features, terms) for _ in range(dense_depth)]
    head = (
        Prototypes(features, n_classes, prototypes=prototypes)
        if prototypes
        else UnitRowLinear(features, n_classes)
    )
    return Classifier(nn.Sequential(*layers), head)


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that the features, all layers before the head, are nonexpansive."""
    yield Nonexpansive("features")
