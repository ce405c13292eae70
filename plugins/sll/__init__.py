"""SDP-based Lipschitz layers in their paper's layout, or almost-orthogonal layers in the same."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import (
    AlmostOrthogonalConv,
    AlmostOrthogonalLinear,
    Classifier,
    ConvGradientStep,
    DenseGradientStep,
    MaxMin,
    UnitRowLinear,
    ZeroPadChannels,
)
from robustbench_dyn.properties import Nonexpansive, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    depth: int = 4,
    features: int = 320,
    dense_depth: int = 7,
    aol: bool = False,
) -> nn.Module:
    """Lift to `channels` by zeros, convolve, pool 4 x 4 to sums over 4, flatten, dense layers.

    The network of Araujo et al., arXiv 2303.03169, section 5, made small. SLL keeps the shape: its
    convolutions have as many terms as channels, its dense layers `features` terms. aol: layers W
    T^-1/2 x + b and MaxMin (arXiv 2208.03160) in their stead, the dense ones `features` wide.
    Pictures need height and width divisible by 4; points, with H = W = 1, are not pooled.
    """
    n_in, height, width = input_shape
    size = 3 if height > 1 else 1
    if channels < n_in or (size == 3 and (height % 4 or width % 4)):
        raise ValueError(
            f"inputs {input_shape} need channels={channels} of at least {n_in}, and height and "
            "width divisible by 4"
        )
    layers: list[nn.Module] = [ZeroPadChannels(channels)]
    for _ in range(depth):
        if aol:
            layers += [AlmostOrthogonalConv(channels, channels, kernel_size=size), MaxMin()]
        else:
            layers.append(ConvGradientStep(channels, channels, kernel_size=size))
    if size == 3:
        # Sums over 16 pixels by 4 keep the norm of what is constant on a window.
        layers.append(nn.AvgPool2d(4, divisor_override=4))
        height, width = height // 4, width // 4
    layers.append(nn.Flatten())
    length = channels * height * width
    for _ in range(dense_depth):
        if aol:
            layers += [AlmostOrthogonalLinear(length, features), MaxMin()]
            length = features
        else:
            layers.append(DenseGradientStep(length, features))
    return Classifier(nn.Sequential(*layers), UnitRowLinear(length, n_classes))


def properties(_model: nn.Module) -> Iterator[Property]:
    """Claim that all that stands before the head is nonexpansive."""
    yield Nonexpansive("features")
