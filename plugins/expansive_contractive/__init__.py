"""Expansive and contractive steps in turn; each pair, and so the whole, is nonexpansive."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import Classifier, SwitchingPair, UnitRowLinear, two_scales
from robustbench_dyn.properties import Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    depth: int = 8,
    flexible: bool = True,
    contractive: float = 0.3,
    expansive: float = 0.141,
    activation: str = "leaky_relu_0.5",
) -> nn.Module:
    """Build scales of `depth` pairs; flexible: both steps are learned under the constraint.

    The lower the activation's lowest slope, the longer may a contractive step be, and the shorter
    must an expansive one be.
    """

    def pairs(width: int, _kernel_size: int) -> list[nn.Module]:
        return [
            SwitchingPair(
                width,
                contractive=contractive,
                expansive=expansive,
                learned=flexible,
                activation=activation,
            )
            for _ in range(depth)
        ]

    layers, features = two_scales(input_shape, channels, pairs)
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that all that stands before the head is nonexpansive."""
    yield Nonexpansive("features")
