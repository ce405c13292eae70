"""Alternating expansive and contractive steps; each pair, and thus the network, is nonexpansive."""

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
    """Build two scales of `depth` pairs of steps; points have one scale.

    flexible: both step sizes are learned under the constraint. An activation with a lower minimal
    slope allows longer contractive steps and requires shorter expansive ones.
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
    """Claim that the features, all layers before the head, are nonexpansive."""
    yield Nonexpansive("features")
