"""A composition of Euler steps of nonexpansive gradient flows, 1-Lipschitz by a rigorous bound."""

from torch import nn

from robustbench_dyn.flows import (
    Classifier,
    ConvGradientStep,
    DenseGradientStep,
    UnitRowLinear,
    ZeroPadChannels,
)


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 8,
    terms: int = 384,
    depth: int = 3,
) -> nn.Module:
    """Lift to `channels` at half resolution, flow, halve again, flow, and flow as a vector.

    Between input and head nothing but isometries and gradient steps: no bottleneck loses norm.
    input_shape: (C, H, W) with H and W divisible by 4. terms: of each dense step's potential.
    depth: steps at each of the three scales.
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
    layers += [nn.Flatten(), *(DenseGradientStep(features, terms) for _ in range(depth))]
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))
