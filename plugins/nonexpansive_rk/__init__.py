"""Runge-Kutta steps of nonexpansive gradient flows; circle contractivity keeps them 1-Lipschitz."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import (
    Classifier,
    ConvRungeKuttaStep,
    DenseRungeKuttaStep,
    UnitRowLinear,
    two_scales,
)
from robustbench_dyn.properties import Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    method: str = "heun",
    channels: int = 8,
    terms: int = 48,
    depth: int = 2,
    dense_depth: int = 4,
) -> nn.Module:
    """Build convolutional steps at half and quarter resolution, then dense ones.

    method: "euler", "heun", "rk4" or "rk4_38". channels: at half resolution. terms: number of terms
    (hidden units) of each dense potential. depth: convolutional steps per scale. dense_depth: dense
    steps.
    """

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        return [
            ConvRungeKuttaStep(width, 2 * width, kernel_size=kernel_size, method=method)
            for _ in range(depth)
        ]

    layers, features = two_scales(input_shape, channels, steps)
    terms = min(terms, features)
    layers += [DenseRungeKuttaStep(features, terms, method=method) for _ in range(dense_depth)]
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that the features, all layers before the head, are nonexpansive."""
    yield Nonexpansive("features")
