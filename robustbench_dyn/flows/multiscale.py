"""The two-scale layout of image networks: a flow at half and one at quarter resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from robustbench_dyn.flows.linear import ZeroPadChannels

Steps = Callable[[int, int], Iterable[nn.Module]]


def two_scales(
    input_shape: tuple[int, int, int], channels: int, steps: Steps
) -> tuple[list[nn.Module], int]:
    """Return the layers from the input to a flat state, and the length of that state.

    input_shape: (C, H, W). Images, with H and W divisible by 4: unshuffle by 2, lift to `channels`
    by zeros, steps(channels, 3), unshuffle by 2, steps(4 channels, 3), flatten. Points, with
    H = W = 1: lift, steps(channels, 1), flatten. steps(channels, kernel_size) returns layers that
    keep the shape; all other layers are isometries. Raises ValueError for other shapes, and where
    the input has more channels than fit.
    """
    in_channels, height, width = input_shape
    if height == width == 1:
        if in_channels > channels:
            raise ValueError(f"channels={channels} must be at least {in_channels}")
        return [ZeroPadChannels(channels), *steps(channels, 1), nn.Flatten()], channels
    if height % 4 or width % 4 or 4 * in_channels > channels:
        raise ValueError(
            f"inputs {input_shape} need height and width divisible by 4, and "
            f"channels={channels} of at least {4 * in_channels}"
        )
    layers = [nn.PixelUnshuffle(2), ZeroPadChannels(channels), *steps(channels, 3)]
    layers += [nn.PixelUnshuffle(2), *steps(4 * channels, 3), nn.Flatten()]
    return layers, channels * height * width // 4
