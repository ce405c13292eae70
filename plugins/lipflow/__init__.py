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
    unshuffle: int = 2,
    coarse_depth: int | None = None,
    terms_per_channel: int = 4,
    blocks: int = 1,
) -> nn.Module:
    """Build convolutional gradient steps at two resolutions, then dense ones.

    All layers before the head are isometries and gradient steps, so that no bottleneck loses norm.
    channels: at the finer resolution. terms: number of terms (hidden units) of each dense
    potential. depth: convolutional steps at the finer resolution, and at the coarser one unless
    coarse_depth says how many. dense_depth: dense steps. prototypes: number of prototypes a class
    in the head, points among the features; 0 for a linear head. start_bias: of the convolutional
    steps before training; a negative one makes them near the identity. unshuffle: the finer
    resolution is the input's divided by it. terms_per_channel: of the finer steps; the coarser ones
    have half. blocks: parts in which dense steps sum over features, for less rounding to allow for.
    """

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        if width == channels:
            n_steps, n_terms = depth, terms_per_channel * width
        else:
            n_steps = depth if coarse_depth is None else coarse_depth
            n_terms = terms_per_channel * width // 2
        return [ConvGradientStep(width, n_terms, kernel_size=kernel_size) for _ in range(n_steps)]

    layers, features = two_scales(input_shape, channels, steps, unshuffle=unshuffle)
    for layer in layers:
        if start_bias and isinstance(layer, ConvGradientStep):
            nn.init.constant_(layer.bias, start_bias)
    terms = min(terms, features)
    layers += [OrthonormalGradientStep(features, terms, blocks=blocks) for _ in range(dense_depth)]
    head = (
        Prototypes(features, n_classes, prototypes=prototypes)
        if prototypes
        else UnitRowLinear(features, n_classes)
    )
    return Classifier(nn.Sequential(*layers), head)


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that the features, all layers before the head, are nonexpansive."""
    yield Nonexpansive("features")
