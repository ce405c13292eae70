"""Equilibria of monotone operators, the end of a flow at infinite time, with Lipschitz bounds."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import (
    Classifier,
    MonotoneEquilibrium,
    OrthonormalLinear,
    UnitRowLinear,
    ZeroPadChannels,
)
from robustbench_dyn.properties import AtEquilibrium, Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    features: int = 96,
    depth: int = 1,
    skew: float = 0.2,
    tolerance: float = 1e-6,
) -> nn.Module:
    """Build `depth` pairs of an affine map to `features` and an equilibrium of twice as many.

    skew: the largest norm of the skew-symmetric part of the operator. tolerance: of the solver,
    relative to its first iterate; it decides the number of iterations. Points, with H = W = 1, are
    lifted by zeros.
    """
    channels, height, width = input_shape
    layers, size = list[nn.Module](), channels * height * width
    if size < features:
        if height * width > 1:
            raise ValueError(f"inputs {input_shape} have fewer than features={features} numbers")
        layers, size = [ZeroPadChannels(features)], features
    layers.append(nn.Flatten())
    for _ in range(depth):
        layers.append(OrthonormalLinear(size, features))
        layers.append(MonotoneEquilibrium(features, skew=skew, tolerance=tolerance))
        size = 2 * features
    return Classifier(nn.Sequential(*layers), UnitRowLinear(size, n_classes))


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim that the features are nonexpansive, and that each solver reaches its equilibrium."""
    yield Nonexpansive("features")
    for name, module in model.named_modules():
        if isinstance(module, MonotoneEquilibrium):
            yield AtEquilibrium(name)
