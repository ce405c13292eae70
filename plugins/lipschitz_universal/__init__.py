"""1-Lipschitz residual steps with norm-constrained affine maps between them: a universal class."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import (
    AlmostOrthogonalConv,
    Classifier,
    ConvGradientStep,
    OrthonormalGradientStep,
    OrthonormalLinear,
    UnitRowLinear,
    two_scales,
)
from robustbench_dyn.properties import Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 8,
    depth: int = 1,
    width: int = 160,
    dense_depth: int = 3,
) -> nn.Module:
    """Build affine maps and residual steps in turn: convolutions at two scales, then dense ones.

    The residual steps are explicit Euler steps of negative gradient flows, x - 2 W relu(W^T x + b)
    with |W| <= 1; the affine maps between have a norm of at most 1. Dense layers of this kind, with
    a norm-constrained head, approximate every scalar 1-Lipschitz function on a compact set at fixed
    width, as their number grows (arXiv 2505.12003). channels: at half resolution. depth:
    convolutional pairs per scale. width: of the dense pairs. dense_depth: number of dense pairs.
    """

    def pairs(channels: int, kernel_size: int) -> list[nn.Module]:
        layers = list[nn.Module]()
        for _ in range(depth):
            layers.append(AlmostOrthogonalConv(channels, channels, kernel_size=kernel_size))
            layers.append(ConvGradientStep(channels, 2 * channels, kernel_size=kernel_size))
        return layers

    layers, features = two_scales(input_shape, channels, pairs)
    width = min(width, features)
    for _ in range(dense_depth):
        layers.append(OrthonormalLinear(features, width))
        layers.append(OrthonormalGradientStep(width, width // 2))
        features = width
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that the features, all layers before the head, are nonexpansive."""
    yield Nonexpansive("features")
