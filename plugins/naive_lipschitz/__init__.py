"""Steps (x + B sigma(A x + b)) / 2 with |A|, |B| <= 1: the naive 1-Lipschitz residual network."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import Classifier, NaiveStep, UnitRowLinear, two_scales
from robustbench_dyn.properties import Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int], n_classes: int, *, channels: int = 16, depth: int = 3
) -> nn.Module:
    """Build two scales of `depth` steps; points have one scale."""

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        return [NaiveStep(width, kernel_size=kernel_size) for _ in range(depth)]

    layers, features = two_scales(input_shape, channels, steps)
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that the features, all layers before the head, are nonexpansive."""
    yield Nonexpansive("features")
