"""SDP-based Lipschitz layers (SLL) in the layout of their paper, or almost-orthogonal layers."""

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
    """Build a lift to `channels`, convolutions, 4 x 4 pooling and dense layers.

    A small version of the network of Araujo et al., arXiv 2303.03169, section 5. SLL layers keep
    the shape: the convolutions have as many terms as channels, the dense layers `features` terms.
    aol: layers W T^-1/2 x + b with MaxMin (arXiv 2208.03160) instead, the dense ones `features`
    wide. Images need height and width divisible by 4; points, with H = W = 1, are not pooled.
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
        # The sum of a window of 16 pixels divided by 4 keeps the norm of a constant window.
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
    """Claim that the features, all layers before the head, are nonexpansive."""
    yield Nonexpansive("features")
