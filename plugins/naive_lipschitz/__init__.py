"""(x + B sigma(A x + b)) / 2 with unit norms: the straw man among the 1-Lipschitz networks."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import Classifier, NaiveStep, UnitRowLinear, two_scales
from robustbench_dyn.properties import Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int], n_classes: int, *, channels: int = 16, depth: int = 3
) -> nn.Module:
    """Build scales of `depth` steps."""

    def steps(width: int, kernel_size: int) -> list[nn.Module]:
        return [NaiveStep(width, kernel_size=kernel_size) for _ in range(depth)]

    layers, features = two_scales(input_shape, channels, steps)
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that all that stands before the head is nonexpansive."""
    yield Nonexpansive("features")
