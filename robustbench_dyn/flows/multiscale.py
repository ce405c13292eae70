"""The two-scale layout of image networks: one flow, and another at half its resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from robustbench_dyn.flows.linear import ZeroPadChannels

Steps = Callable[[int, int], Iterable[nn.Module]]


def two_scales(
    input_shape: tuple[int, int, int], channels: int, steps: Steps, *, unshuffle: int = 2
) -> tuple[list[nn.Module], int]:
    """Return the layers from the input to a flat state, and the length of that state.

    input_shape: (C, H, W). Images, with H and W divisible by 2 unshuffle: unshuffle by that factor,
    lift to `channels` by zeros, steps(channels, 3), unshuffle by 2, steps(4 channels, 3), flatten.
    Points, with H = W = 1: lift, steps(channels, 1), flatten. steps(channels, kernel_size) returns
    layers that keep the shape; all other layers are isometries. Raises ValueError for other shapes,
    and where the input has more channels than fit.
    """
    in_channels, height, width = input_shape
    if height == width == 1:
        if in_channels > channels:
            raise ValueError(f"channels={channels} must be at least {in_channels}")
        return [ZeroPadChannels(channels), *steps(channels, 1), nn.Flatten()], channels
    if unshuffle < 1:
        raise ValueError(f"unshuffle={unshuffle} must be at least 1")
    factor, least = 2 * unshuffle, unshuffle**2 * in_channels
    if height % factor or width % factor or least > channels:
        raise ValueError(
            f"inputs {input_shape} need height and width divisible by {factor}, and "
            f"channels={channels} of at least {least}"
        )
    layers = [nn.PixelUnshuffle(unshuffle), ZeroPadChannels(channels), *steps(channels, 3)]
    layers += [nn.PixelUnshuffle(2), *steps(4 * channels, 3), nn.Flatten()]
    return layers, channels * height * width // unshuffle**2
