"""A composition of Euler steps of nonexpansive gradient flows, 1-Lipschitz by a rigorous bound."""

from torch import nn

from robustbench_dyn.flows import (
    Classifier,
    ConvGradientStep,
    OrthonormalGradientStep,
    UnitRowLinear,
    ZeroPadChannels,
)


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 8,
    terms: int = 96,
    depth: int = 3,
    dense_depth: int = 12,
) -> nn.Module:
    """Lift to `channels` at half resolution, flow, halve again, flow, and flow as a vector.

    Between input and head nothing but isometries and gradient steps: no bottleneck loses norm.
    input_shape: (C, H, W) with H and W divisible by 4. terms: of each dense step's potential.
    depth: convolutional steps at each of the two scales. dense_depth: dense steps.
    """
    image_channels, height, width = input_shape
    if height % 4 or width % 4 or 4 * image_channels > channels:
        raise ValueError(
            f"lipflow needs height and width divisible by 4 and channels >= {4 * image_channels}"
        )
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), ZeroPadChannels(channels)]
    layers += [ConvGradientStep(channels, 4 * channels) for _ in range(depth)]
    layers += [nn.PixelUnshuffle(2)]
    layers += [ConvGradientStep(4 * channels, 8 * channels) for _ in range(depth)]
    features = channels * height * width // 4
    layers += [
        nn.Flatten(),
        *(OrthonormalGradientStep(features, terms) for _ in range(dense_depth)),
    ]
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))
